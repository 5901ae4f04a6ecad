//! Disks of a test's own. One in a file, whose file system turns read-only while it is used, as one does of which the
//! kernel finds that something is wrong with it, and a small one in memory. Both take root, the first a kernel with loop
//! devices and ext4: where they cannot be had the test fails.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::temp_dir;

const BYTES: u64 = 128 << 20;

/// The disk, mounted until it is dropped.
pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    pub fn mounted() -> Self {
        let disk = Self { dir: temp_dir() };
        std::fs::create_dir(disk.path()).unwrap();
        std::fs::File::create(disk.image()).unwrap().set_len(BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-F"], &[&disk.image()]);
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Waits until everything written so far is on it. The rest is lost when it turns read-only, but for what was synced
    /// by whoever wrote it.
    pub fn sync(&self) {
        run("sync", &["--file-system"], &[&self.path()]);
    }

    /// Whoever has files open can go on reading, and write no more; nor can anybody else.
    pub fn turn_read_only(&self) {
        let device = self.device();
        // Never another's: it is only ours that is to break.
        assert!(device.starts_with("loop"), "{device} is no loop device");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "by a test").unwrap();
        let refused = std::fs::write(self.path().join("probe"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }

    /// Loses everything that was written to it and not synced, and takes nothing more: what a power cut does to it.
    pub fn cut_power(&self) {
        // `EXT4_IOC_SHUTDOWN`, without writing down even the file system's own journal.
        const SHUT_DOWN: libc::c_ulong = 0x8004_587d;
        let no_log_flush: u32 = 2;
        let folder = std::fs::File::open(self.path()).unwrap();
        // SAFETY: the request takes a number, which lives as long as the call.
        let result = unsafe { libc::ioctl(folder.as_raw_fd(), SHUT_DOWN, &raw const no_log_flush) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        std::fs::write(self.path().join("probe"), "").unwrap_err();
    }

    /// Checks it and mounts it anew, when nobody uses it any more.
    pub fn mend(&self) {
        run("umount", &[], &[&self.path()]);
        // It says with 1 that it has mended something.
        let checked = Command::new("e2fsck").arg("-fy").arg(self.image()).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        self.mount();
    }

    fn mount(&self) {
        run("mount", &["-o", "loop,errors=remount-ro"], &[&self.image(), &self.path()]);
    }

    /// What the kernel calls it: `loop0`, say.
    fn device(&self) -> String {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = self.path();
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = lines.find(|fields| Path::new(fields[1]) == path).expect("it is mounted");
        found[0].trim_start_matches("/dev/").to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// A folder that is in memory, of one size, until it is dropped. Takes root.
pub struct SmallFolder {
    path: PathBuf,
}

impl SmallFolder {
    pub fn mounted(path: PathBuf, kib: u32) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], &[&path]);
        Self { path }
    }
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// Lazily: its server may be killed only a moment later.
fn unmount(path: &Path) {
    let unmounted = Command::new("umount").arg("-l").arg(path).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        eprintln!("{} may still be mounted", path.display());
    }
}

fn run(program: &str, options: &[&str], paths: &[&Path]) {
    let output = Command::new(program)
        .args(options)
        .args(paths)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {options:?} {paths:?} (this takes root): {said}");
}
