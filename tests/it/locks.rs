//! Locks between processes in the mount: `flock`, POSIX `fcntl`, and those of open file descriptions.

use crate::root::TestRoot;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A process that does what it is told, a Python expression a line, and prints what came of it.
struct Program {
    child: Child,
    told: ChildStdin,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

/// The locks as calls: each returns `ok` or the name of the errno.
const PROGRAM: &str = r#"
import errno, fcntl, os, struct, sys
fd = os.open("file", os.O_RDWR | os.O_CREAT, 0o644)
OFD_SETLK = 37
def posix(kind, start=0, length=0):
    fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqixxxx", kind, 0, start, length, 0))
def posix_owner(kind, start=0, length=0):
    return struct.unpack("hhqqixxxx", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqixxxx", kind, 0, start, length, 0)))
def ofd(kind, start=0, length=0, on=None):
    fcntl.fcntl(fd if on is None else on, OFD_SETLK, struct.pack("hhqqixxxx", kind, 0, start, length, 0))
def flock(kind):
    fcntl.flock(fd, kind | fcntl.LOCK_NB)
R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SH, EX, UN = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN
for line in sys.stdin:
    try:
        value = eval(line)
        print("ok" if value is None else value, flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
"#;

impl Program {
    fn start(folder: &Path) -> Program {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (told, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Program { child, told, said }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.told, "{line}").unwrap();
    }

    fn answer(&mut self) -> String {
        self.said.next().unwrap().unwrap()
    }

    #[track_caller]
    fn check(&mut self, line: &str, expected: &str) {
        self.tell(line);
        assert_eq!(self.answer(), expected, "{line}");
    }

    /// The end of a process ends its locks.
    fn end(mut self) {
        drop(self.told);
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn locks_hold_between_processes_and_end_with_them() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    let mut one = Program::start(&mount);
    let mut two = Program::start(&mount);
    for (first, line, expected) in [
        (true, "flock(EX)", "ok"),
        (false, "flock(SH)", "EAGAIN"),
        (true, "flock(SH)", "ok"),
        (false, "flock(SH)", "ok"),
        (false, "flock(EX)", "EAGAIN"),
        (true, "flock(UN)", "ok"),
        (false, "flock(EX)", "ok"),
        (false, "flock(UN)", "ok"),
        // POSIX locks have ranges, and do not mind flock.
        (true, "posix(W, 0, 100)", "ok"),
        (false, "posix(W, 50, 100)", "EAGAIN"),
        (false, "posix(R, 99, 1)", "EAGAIN"),
        (false, "posix(W, 100, 100)", "ok"),
        (true, "posix(W, 0, 0)", "EAGAIN"),
        (false, "flock(EX)", "ok"),
        (false, "posix(U)", "ok"),
        (true, "posix(U, 10, 10)", "ok"),
        (false, "posix(W, 10, 10)", "ok"),
        (false, "posix(W, 9, 1)", "EAGAIN"),
        // Of one process, the second open description ends the first one's POSIX locks when it is closed, as the standard has it.
        (true, "os.close(os.open('file', os.O_RDONLY))", "ok"),
        (false, "posix(W)", "ok"),
        (false, "posix(U)", "ok"),
        // Locks of open file descriptions do not.
        (true, "ofd(W, 0, 10)", "ok"),
        (true, "os.close(os.open('file', os.O_RDONLY))", "ok"),
        (false, "ofd(W, 5, 10)", "EAGAIN"),
        (false, "posix(R, 5, 10)", "EAGAIN"),
        (true, "ofd(R, 0, 10, on=os.open('file', os.O_RDONLY))", "EAGAIN"),
        (true, "ofd(U)", "ok"),
        (false, "ofd(W)", "ok"),
        (false, "ofd(U)", "ok"),
    ] {
        if first {
            one.check(line, expected)
        } else {
            two.check(line, expected)
        };
    }
    one.check("posix(W, 7, 3)", "ok");
    two.check("posix_owner(W)[2:]", &format!("(7, 3, {})", one.child.id()));
    // One that waits gets it when the other has ended, also by a signal.
    two.tell("fcntl.lockf(fd, fcntl.LOCK_EX)");
    one.child.kill().unwrap();
    one.child.wait().unwrap();
    assert_eq!(two.answer(), "ok");
    two.end();
    let mut three = Program::start(&mount);
    three.check("posix(W)", "ok");
    three.check("flock(EX)", "ok");
    three.end();
    root.run("unmount docs").expect(0);
}
