"""Runs a command on a terminal of its own and types an answer at each prompt; prints what the terminal showed.

usage: typist.py ANSWER... -- COMMAND ARG...
"""
import os
import pty
import sys
import termios
import time

split = sys.argv.index("--")
answers, command = sys.argv[1:split], sys.argv[split + 1 :]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown, seen = b"", 0
while True:
    try:
        chunk = os.read(terminal, 4096)
    except OSError:
        break
    if not chunk:
        break
    shown += chunk
    if shown[seen:].endswith(b": ") and answers:
        seen = len(shown)
        # The prompt comes a moment before the terminal stops to show what is typed.
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.001)
        os.write(terminal, answers.pop(0).encode() + b"\n")
_, status = os.waitpid(pid, 0)
shows = termios.tcgetattr(terminal)[3] & termios.ECHO
sys.stderr.write("the terminal shows what is typed\n" if shows else "the terminal is left quiet\n")
sys.stdout.write(shown.decode())
ended = os.waitstatus_to_exitcode(status)
sys.exit(ended if ended >= 0 else 128 - ended)
