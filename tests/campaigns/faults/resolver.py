"""A DNS server that answers "no such name" for each name, or never answers ("black hole")."""

import socket
import sys

ADDRESS = ("127.0.0.53", 53)


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(ADDRESS)
        print("ready", flush=True)
        while True:
            query, sender = server.recvfrom(512)
            if sys.argv[1] == "no such name":
                # RFC 1035, 4.1.1: a response with recursion available and code 3 (name error).
                server.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], sender)


if __name__ == "__main__":
    main()
