from curio import Kernel, spawn, run_server, run_blocking

async def echo_client(client, addr):
    print('Connection from', addr)
    while True:
        data = await client.recv(1000)
        if not data:
            break

        # Temporarily enter blocking mode
        with client.blocking() as _client:
            await run_blocking(_client.sendall, data)

    print('Connection closed')

if __name__ == '__main__':
    kernel = Kernel()
    kernel.run(run_server('', 25000, echo_client))
