//! Where a kernel's monitor listens: a Unix socket in a directory of the user's own.
//!
//! Facts. A TCP port, of the loopback address too, is open to every user of the machine, and to
//! what a browser sends there. Whoever may write to a Unix socket's file may connect to it; but
//! the file is there with the process's default mode before anybody can change it, and not every
//! system minds it. A directory's mode counts everywhere and from the start. A socket's file
//! outlives the process that made it, and a process's number is used again.
//!
//! Meaning for us. Who can enter the directory can do with the program as he likes: send it
//! signals, cancel its tasks. In a directory that another could have made, he could wait for a
//! client instead.
//!
//! Choice. `$XDG_RUNTIME_DIR/curio`, else `curio-UID` in the directory for temporary files, mode
//! 0700, made by us or found to be ours, with one socket for each kernel: `PID-K.sock`. The socket
//! has mode 0600, and who comes all the same is [asked](super::server) who he is. Whoever
//! starts a monitor clears away what dead processes have left.
//!
//! Price. A program whose directory is not safe has no monitor, and says why in the log.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, geteuid, test_kill_process};

/// The most bytes that a socket's path can have; one more ends it.
const LONGEST: usize = 107;

/// The socket's file, which goes with this.
pub(super) struct Place {
    path: PathBuf,
    /// What tells it from another file in its place.
    identity: (u64, u64),
    /// Who has made it. A forked child must not remove it.
    owner: u32,
}

/// Counts the monitors of the process that listen here.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Listens in the user's own directory.
pub(super) fn listen() -> io::Result<(UnixListener, Place)> {
    let directory = directory()?;
    tidy(&directory);
    loop {
        let number = NEXT.fetch_add(1, Relaxed);
        let path = directory.join(format!("{}-{number}.sock", process::id()));
        if path.as_os_str().len() > LONGEST {
            return Err(too_long(&path));
        }
        if vacate(&path)? {
            return listen_at(path);
        }
    }
}

fn listen_at(path: PathBuf) -> io::Result<(UnixListener, Place)> {
    let failed = |error: io::Error| about("cannot listen at", &path, &error);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    let identity = identity(&fs::symlink_metadata(&path).map_err(failed)?);
    Ok((listener, Place { path, identity, owner: process::id() }))
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A process of another container, with the same number, may have taken our place.
        let ours = |metadata: Metadata| identity(&metadata) == self.identity;
        if self.owner == process::id() && fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The directory, made if it is not there, and safe.
fn directory() -> io::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = path_for(variable("XDG_RUNTIME_DIR"), variable("TMPDIR"), geteuid().as_raw());
    let path = std::path::absolute(path)?;
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(about("cannot make the directory", &path, &error));
        }
        _ => {}
    }
    // Not what a link leads to: another user can link to a directory of ours.
    let metadata = fs::symlink_metadata(&path);
    let metadata = metadata.map_err(|error| about("cannot look at", &path, &error))?;
    match objection(&metadata, geteuid().as_raw()) {
        None => Ok(path),
        Some(objection) => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{} is not safe to use: it must be a directory with mode 0700 of user {}; it is \
                 {objection}",
                path.display(),
                geteuid().as_raw(),
            ),
        )),
    }
}

fn path_for(runtime: Option<OsString>, temporary: Option<OsString>, user: u32) -> PathBuf {
    match runtime {
        Some(runtime) => Path::new(&runtime).join("curio"),
        None => {
            let temporary = temporary.unwrap_or_else(|| "/tmp".into());
            Path::new(&temporary).join(format!("curio-{user}"))
        }
    }
}

/// What is found in the directory's place, if others could come in or it is none.
fn objection(metadata: &Metadata, user: u32) -> Option<String> {
    let what = if metadata.is_dir() {
        "a directory"
    } else if metadata.is_symlink() {
        "a link"
    } else {
        "a file"
    };
    let mode = metadata.mode() & 0o777;
    let safe = metadata.is_dir() && mode == 0o700 && metadata.uid() == user;
    (!safe).then(|| format!("{what} with mode {mode:04o} of user {}", metadata.uid()))
}

/// Removes the sockets of processes that are no more. What fails is left for the next one.
fn tidy(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if owner(&path).is_some_and(|owner| !exists(owner)) && is_dead(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The process that a socket's name speaks of.
fn owner(path: &Path) -> Option<Pid> {
    let name = path.file_name()?.to_str()?.strip_suffix(".sock")?;
    let (process, number) = name.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(process) || !digits(number) {
        return None;
    }
    Pid::from_raw(process.parse().ok()?)
}

fn exists(process: Pid) -> bool {
    // Another error says that it is somebody else's.
    test_kill_process(process) != Err(Errno::SRCH)
}

/// Whether nobody listens at a socket. The processes of other containers have other numbers here,
/// or none, so that a process does not exist is not enough.
fn is_dead(path: &Path) -> bool {
    // It must not wait for a server whose queue is full.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connect = || {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connect() == Err(Errno::CONNREFUSED)
}

/// Makes room for a socket of ours. `false`: somebody is there who has the same number as we.
fn vacate(path: &Path) -> io::Result<bool> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(true);
    }
    if !is_dead(path) {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(about("cannot remove the old socket", path, &error))
        }
        _ => Ok(true),
    }
}

fn about(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn too_long(path: &Path) -> io::Error {
    let length = path.as_os_str().as_bytes().len();
    io::Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the path of the socket would be too long, {length} bytes of at most {LONGEST}: {}; \
             XDG_RUNTIME_DIR can name a directory with a shorter one",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_that_of_the_session_or_one_among_temporary_files() {
        let path = |runtime: Option<&str>, temporary: Option<&str>| {
            path_for(runtime.map(Into::into), temporary.map(Into::into), 7)
        };
        assert_eq!(path(Some("/run/user/7"), Some("/var/tmp")), Path::new("/run/user/7/curio"));
        assert_eq!(path(None, Some("/var/tmp")), Path::new("/var/tmp/curio-7"));
        assert_eq!(path(None, None), Path::new("/tmp/curio-7"));
    }

    #[test]
    fn only_the_names_of_sockets_speak_of_a_process() {
        let number = |name: &str| owner(Path::new(name)).map(Pid::as_raw_nonzero);
        assert_eq!(number("/run/12-1.sock").map(Into::into), Some(12));
        for name in ["12.sock", "12-1", "-12-1.sock", "0-1.sock", "+1-1.sock", "99999999999-1.sock"]
        {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
