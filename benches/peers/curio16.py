"""The loops on Curio 1.6, to be run with `python -O`: its asserts make cancelling quadratic.

The program is that of the new package, `curio2.py`: only the installed package differs.
"""

from curio2 import program

if __name__ == "__main__":
    program()
