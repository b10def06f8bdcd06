//! The maps of ids are predictable: user_namespaces(7), as a model.

use nix::errno::Errno;

use crate::target::{Root, end, fresh_machine};

/// capabilities(7): the bits of `CapEff` in /proc/PID/status.
const SETUID: u64 = 1 << 7;
const SYS_ADMIN: u64 = 1 << 21;
const SETFCAP: u64 = 1 << 31;

/// Who creates a user namespace, or writes a map, by uid and capabilities.
type User = (u32, u64);

/// A line of a map: the first uid inside, the first outside, how many.
type Line = (u32, u32, u32);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Rule {
    Privilege,
    Empty,
    Overlap,
    ParentsRoot,
    OneForOneself,
}

/// How the write of this map to `uid_map` ends. Without a writer the creator
/// writes it, from inside.
fn model(
    creator: User,
    writer: Option<User>,
    map: &[Line],
    without: Option<Rule>,
) -> Result<(), Errno> {
    let knows = |rule| without != Some(rule);
    // The creator has all capabilities inside, and from there none outside.
    let (uid, caps) = writer.unwrap_or((creator.0, 0));
    let inside = writer.is_none();
    // CAP_SYS_ADMIN in the new namespace: its creator has that, and who has it
    // in the parent.
    let admin = inside || uid == creator.0 || caps & SYS_ADMIN != 0;
    if !admin && knows(Rule::Privilege) {
        return Err(Errno::EPERM);
    }
    for (at, &(first, outside, count)) in map.iter().enumerate() {
        if count == 0 && knows(Rule::Empty) {
            return Err(Errno::EINVAL);
        }
        // No two lines may name the same uid, inside or outside.
        let overlap = |a: u32, b: u32, n: u32| a < b + n && b < a + count;
        let overlaps = map[..at].iter().any(|&(other, other_outside, n)| {
            overlap(first, other, n) || overlap(outside, other_outside, n)
        });
        if overlaps && knows(Rule::Overlap) {
            return Err(Errno::EINVAL);
        }
    }
    // Who maps the parent's root could make programs with file capabilities that
    // count in the parent.
    let root = map.iter().any(|&(_, outside, count)| outside == 0 && count > 0);
    let may = if inside { creator.1 } else { caps } & SETFCAP != 0;
    if root && !may && knows(Rule::ParentsRoot) {
        return Err(Errno::EPERM);
    }
    // One line for oneself needs no privilege, every other CAP_SETUID outside.
    let oneself = matches!(map, [(_, outside, 1)] if *outside == uid);
    if oneself && uid == creator.0 && knows(Rule::OneForOneself) {
        return Ok(());
    }
    if caps & SETUID != 0 { Ok(()) } else { Err(Errno::EPERM) }
}

/// S8: ten writers, and all maps of one line and of two of some. Each rule of
/// the model is needed: without it something differs.
#[test]
fn model_predicts_which_maps_are_accepted() {
    let machine = fresh_machine();
    machine.put("/tmp/maps");
    let status = machine.sh(Root, "grep CapPrm /proc/self/status");
    let (_, caps) = status.trim_end().split_once('\t').expect("CapPrm");
    let all = u64::from_str_radix(caps, 16).expect("capabilities");
    let writers = [
        ((1000, 0), None),
        ((0, all), None),
        ((0, all & !SETFCAP), None),
        ((1000, 0), Some((1000, 0))),
        ((1000, 0), Some((1000, SETUID))),
        ((1000, 0), Some((1000, SETUID | SETFCAP))),
        ((1000, 0), Some((0, all))),
        ((1000, 0), Some((0, all & !SYS_ADMIN))),
        ((1000, 0), Some((0, all & !SETFCAP))),
        ((1000, 0), Some((0, all & !SETUID))),
    ];
    let mut lines: Vec<Line> = Vec::new();
    for first in [0, 1, 5] {
        for outside in [0, 1000, 1001] {
            lines.extend([0, 1, 2].map(|count| (first, outside, count)));
        }
    }
    let mut maps: Vec<Vec<Line>> = lines.iter().map(|it| vec![*it]).collect();
    for one in &lines {
        maps.extend(lines.iter().map(|two| vec![*one, *two]));
    }
    let mut input = String::new();
    for (creator, writer) in writers {
        let user = |(uid, caps)| format!("{uid}:{caps}");
        let writer = writer.map_or("inside".into(), user);
        input += &format!("{}\t{writer}", user(creator));
        for map in &maps {
            let map = map.iter().map(|(a, b, n)| format!("{a} {b} {n};"));
            input += &format!("\t{}", map.collect::<String>());
        }
        input += "\n";
    }
    let output = machine.answers("/tmp/maps", &input);
    let seen: Vec<_> = output.lines().map(end).collect();
    assert_eq!(seen.len(), writers.len() * maps.len());
    let difference = |without| {
        let tried = writers
            .iter()
            .flat_map(|writer| maps.iter().map(move |map| (writer, map)));
        tried.zip(&seen).find_map(|(((creator, writer), map), seen)| {
            let predicted = model(*creator, *writer, map, without);
            (predicted != *seen).then(|| {
                format!(
                    "{creator:?} {writer:?} {map:?}: {seen:?}, and the model \
                     says {predicted:?}"
                )
            })
        })
    };
    assert_eq!(difference(None), None);
    // The control: without a rule something differs.
    for rule in [
        Rule::Privilege,
        Rule::Empty,
        Rule::Overlap,
        Rule::ParentsRoot,
        Rule::OneForOneself,
    ] {
        assert_ne!(difference(Some(rule)), None, "nothing depends on {rule:?}");
    }
}
