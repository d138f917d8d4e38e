from curio import Kernel, spawn, run_server

async def echo_client(client, addr):
    print('Connection from', addr)
    reader, writer = client.make_streams()
    async for line in reader:
        await writer.write(line)
    print('Connection closed')
    await reader.close()
    await writer.close()

if __name__ == '__main__':
    kernel = Kernel()
    kernel.run(run_server('', 25000, echo_client))
