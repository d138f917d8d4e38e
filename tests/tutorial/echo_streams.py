from curio import Kernel, spawn, run_server

async def echo_client(client, addr):
    print('Connection from', addr)
    reader, writer = client.make_streams()
    while True:
        data = await reader.read(1000)
        if not data:
            break
        await writer.write(data)
    print('Connection closed')

if __name__ == '__main__':
    kernel = Kernel()
    kernel.run(run_server('', 25000, echo_client))
