import curio
from curio import ssl
import time

KEYFILE = "privkey_rsa"       # Private key
CERTFILE = "certificate.crt"  # Server certificate

async def handler(client, addr):
    reader, writer = client.make_streams()

    # Read the HTTP request
    async for line in reader:
       line = line.strip()
       if not line:
           break
       print(line)

    # Send a response
    await writer.write(
b'''HTTP/1.0 200 OK\r
Content-type: text/plain\r
\r
If you're seeing this, it probably worked. Yay!
''')
    await writer.write(time.asctime().encode('ascii'))
    await reader.close()
    await writer.close()

if __name__ == '__main__':
    kernel = curio.Kernel()
    ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ssl_context.load_cert_chain(certfile=CERTFILE, keyfile=KEYFILE)
    kernel.run(curio.run_server('', 10000, handler, ssl=ssl_context))
