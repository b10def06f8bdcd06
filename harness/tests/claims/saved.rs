//! V6: the saved machine from which each command and each claim starts.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::common::scratch;
use crate::readers::{apart, executable, in_time, kills};

/// V1, V6: the command is a script of the reader's own, which is packed into
/// the machine.
#[test]
fn killed_or_damaged_saved_machine_is_made_anew() {
    // No other test uses this cache.
    let cache = scratch();
    // Readers try out programs below /tmp, so that path must work in the guest.
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("own");
    executable(&script, "#!/bin/sh\necho own: \"$0\" \"$@\"; hostname\n");
    let own = || {
        let mut command = apart(cache.path());
        command.args(["./own", "argument"]).current_dir(&dir);
        command
    };
    let run = || {
        let end = in_time(own()).assert().success();
        let end = end.stdout("own: ./own argument\noutside\n");
        String::from_utf8(end.get_output().stderr.clone()).expect("text")
    };
    let two_at_once = || {
        thread::scope(|scope| {
            let other = scope.spawn(run);
            [run(), other.join().expect("the other one's end")]
        })
    };

    // Killed while the machine is made: after its first file, and later.
    let cache = cache.path();
    let half = cache.join("new/initramfs");
    let rounds = kills().map_or(1, |kills| kills.div_ceil(10));
    for round in 0..rounds {
        let _ = fs::remove_dir_all(cache);
        let mut making = own().stdout(Stdio::null()).spawn().expect("harness");
        while !half.exists() {
            assert_eq!(making.try_wait().expect("a child"), None);
            thread::yield_now();
        }
        thread::sleep(Duration::from_secs(2) * round / rounds);
        making.kill().expect("kill");
        making.wait().expect("wait");
        assert!(round > 0 || half.exists());
    }
    assert_eq!(two_at_once(), ["", ""]);
    assert!(!cache.join("new").exists() && !cache.join("old").exists());

    // Damaged: other bytes in a file of the same length and time.
    let states = fs::read_dir(cache).expect("a folder").flatten();
    let saved = states.map(|entry| entry.path().join("state"));
    let saved: Vec<PathBuf> = saved.filter(|path| path.exists()).collect();
    assert_eq!(saved.len(), 1);
    let found = fs::metadata(&saved[0]).expect("a file");
    let rubbish = vec![0x55; found.len() as usize];
    fs::write(&saved[0], rubbish).expect("a file");
    File::options()
        .write(true)
        .open(&saved[0])
        .and_then(|file| file.set_modified(found.modified()?))
        .expect("a file");
    // The second may start after the first has made the machine anew.
    let mut complaints = two_at_once().to_vec();
    complaints.retain(|complaint| !complaint.is_empty());
    assert!(!complaints.is_empty(), "the damage was not noticed");
    for complaint in complaints {
        let damaged = "harness: the saved machine does not go on, ";
        assert!(complaint.starts_with(damaged), "{complaint}");
    }
    assert_eq!(run(), "");
}
