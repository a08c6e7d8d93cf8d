//! `mount.wizefs`, what mount(8) runs for a line of fstab: its arguments as those of `wizefs mount`.
//!
//! ```text
//! docs /srv/docs wizefs root=/var/lib/wizefs,durability=close,nofail,_netdev 0 0
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names under which the program is the helper of mount(8).
const NAMES: [&str; 2] = ["mount.wizefs", "mount.fuse.wizefs"];
/// Exit codes of mount(8) for wrong usage and for a mount that failed.
pub const EXIT_USAGE: u8 = 1;
/// See [`EXIT_USAGE`].
pub const EXIT_FAILED: u8 = 32;

/// Options that say what is so anyway, or that are for mount(8), systemd and the network alone.
const IGNORED: [&str; 26] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "nodev",
    "dev",
    "nosuid",
    "suid",
    "exec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "async",
    "default_permissions",
    "silent",
    "loud",
];
/// Options that are flags of `wizefs mount`.
const FLAGS: [(&str, &str); 5] = [
    ("ro", "--read-only"),
    ("read-only", "--read-only"),
    ("allow_other", "--allow-other"),
    ("exclusive", "--exclusive"),
    ("noexec", "--noexec"),
];
/// Options with a value that are flags of `wizefs mount`.
const VALUES: [&str; 6] = ["root", "durability", "passfile", "listen", "grpc-listen", "chain-listen"];

/// Whether the program was started under the name of the helper.
pub fn is_helper(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str);
    name.is_some_and(|name| NAMES.contains(&name))
}

/// What `mount.wizefs ORIGIN DIR [-sfnv] [-t TYPE] [-o OPTIONS]` means for wizefs, without the program's name.
///
/// # Errors
/// One sentence about what cannot be understood.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let (mut sloppy, mut fake) = (false, false);
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        match argument.as_bytes() {
            b"-o" => options.push(given.next().ok_or("-o needs options")?),
            b"-t" | b"-N" => drop(given.next()),
            [b'-', b'o', rest @ ..] => options.push(OsStr::from_bytes(rest).to_owned()),
            [b'-', letters @ ..] if !letters.is_empty() => {
                sloppy |= letters.contains(&b's');
                fake |= letters.contains(&b'f');
                if letters.iter().any(|letter| !b"sfnvrw".contains(letter)) {
                    return Err(format!("{} is no option of a mount helper", argument.display()));
                }
                if letters.contains(&b'r') {
                    options.push("ro".into());
                }
            }
            _ => places.push(argument),
        }
    }
    let [origin, mountpoint] =
        <[OsString; 2]>::try_from(places).map_err(|_| "usage: mount.wizefs ORIGIN DIR [-o OPTIONS]")?;
    // `df` and mountinfo show the source as wizefs:ORIGIN, and people copy it from there.
    let origin = origin.as_bytes().strip_prefix(b"wizefs:").unwrap_or(origin.as_bytes());
    let mut arguments: Vec<OsString> = ["--quiet", if fake { "check" } else { "mount" }].map(OsString::from).into();
    for option in options.iter().flat_map(|options| options.as_bytes().split(|byte| *byte == b',')) {
        let flag = flag(OsStr::from_bytes(option), sloppy)?;
        arguments.extend(flag.filter(|flag| !fake || flag.as_bytes().starts_with(b"--root=")));
    }
    arguments.extend(["--".into(), OsStr::from_bytes(origin).to_owned()]);
    if !fake {
        arguments.push(mountpoint);
    }
    Ok(arguments)
}

/// The flag of an option, if there is one.
fn flag(option: &OsStr, sloppy: bool) -> Result<Option<OsString>, String> {
    let bytes = option.as_bytes();
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (bytes, None),
    };
    let name = String::from_utf8_lossy(name);
    if name.is_empty() || name.starts_with("x-") || name.starts_with("X-") || name == "comment" {
        return Ok(None);
    }
    match value {
        None if IGNORED.contains(&&*name) => Ok(None),
        None => match FLAGS.iter().find(|(option, _)| *option == name) {
            Some((_, flag)) => Ok(Some((*flag).into())),
            None if sloppy => Ok(None),
            None => Err(format!("the option {name} is not known")),
        },
        Some(value) if VALUES.contains(&&*name) => {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            Ok(Some(flag))
        }
        Some(_) if sloppy => Ok(None),
        Some(_) => Err(format!("the option {name} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab_is_a_mount() {
        #[track_caller]
        fn check(given: &str, expect: Option<&str>) {
            let arguments = arguments(given.split_whitespace().map(OsString::from)).ok();
            let arguments = arguments.map(|all| all.join(OsStr::new(" ")).into_string().unwrap());
            assert_eq!(arguments.as_deref(), expect, "{given}");
        }
        check("docs /m", Some("--quiet mount -- docs /m"));
        check("wizefs:docs /m -o rw", Some("--quiet mount -- docs /m"));
        check(
            "docs /m -o ro,root=/var/lib/wizefs,nofail,_netdev,x-systemd.automount,durability=close",
            Some("--quiet mount --read-only --root=/var/lib/wizefs --durability=close -- docs /m"),
        );
        check(
            "docs /m -n -o allow_other,grpc-listen=off",
            Some("--quiet mount --allow-other --grpc-listen=off -- docs /m"),
        );
        check("docs /m -t fuse.wizefs -v -oexclusive", Some("--quiet mount --exclusive -- docs /m"));
        // What mount(8) makes of `users`.
        check("docs /m -o rw,noexec,nosuid,nodev,users", Some("--quiet mount --noexec -- docs /m"));
        check("docs /m -s -o nonsense,odd=1", Some("--quiet mount -- docs /m"));
        check("docs /m -f -o ro,root=/r", Some("--quiet check --root=/r -- docs"));
        check("docs /m -o nonsense", None);
        check("docs /m -o root", None);
        check("docs /m -q", None);
        check("docs", None);
        check("docs /m -o", None);
    }

    #[test]
    fn the_helper_is_known_by_its_name() {
        for (program, expect) in [("/sbin/mount.wizefs", true), ("mount.fuse.wizefs", true), ("/usr/bin/wizefs", false)]
        {
            assert_eq!(is_helper(Some(OsStr::new(program))), expect, "{program}");
        }
    }
}
