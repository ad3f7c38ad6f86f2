"""``python -m crossreid COMMAND``."""

from crossreid.engine.commands import main

if __name__ == "__main__":
    main()
