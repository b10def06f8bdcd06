//! Each fact of FACTS.md has a test, and each fact that a test names is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

/// For each fact the tests that name it in their doc comments: `/// U1`,
/// `/// G2, G3`, `/// P4 to P8`, `/// V3: and some words`.
fn proofs() -> BTreeMap<String, Vec<String>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/claims");
    let entries = fs::read_dir(dir).expect("claims").flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect();
    files.sort();
    let mut proofs = BTreeMap::<String, Vec<String>>::new();
    for file in files {
        let module = file.file_stem().expect("a name").to_string_lossy();
        let text = fs::read_to_string(&file).expect("text");
        let mut doc: Option<&str> = None;
        for line in text.lines() {
            if let Some(words) = line.strip_prefix("/// ") {
                doc = doc.or(Some(words));
            } else if let Some(rest) = line.strip_prefix("fn ") {
                let name = rest.split('(').next().unwrap_or_default();
                for id in doc.into_iter().flat_map(ids) {
                    let proof = format!("`{module}::{name}`");
                    proofs.entry(id).or_default().push(proof);
                }
                doc = None;
            } else if line.is_empty() {
                doc = None;
            }
        }
    }
    proofs
}

/// The ids of facts at the start of a doc comment.
fn ids(words: &str) -> Vec<String> {
    let head = words.split([':', '.']).next().unwrap_or_default();
    let mut ids = Vec::new();
    for word in head.split(", ") {
        let (first, last) = word.split_once(" to ").unwrap_or((word, word));
        if let Some((letter, first)) = id(first)
            && let Some((_, last)) = id(last)
        {
            ids.extend((first..=last).map(|it| format!("{letter}{it}")));
        }
    }
    ids
}

fn id(word: &str) -> Option<(&str, u32)> {
    let (letter, number) = word.split_at_checked(1)?;
    Some((letter, number.parse().ok()?))
        .filter(|_| "GCUIPMSNV".contains(letter))
}

#[test]
fn every_fact_has_a_test_and_every_test_its_fact() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("FACTS.md");
    let page = fs::read_to_string(&path).expect("FACTS.md");
    let mut proofs = proofs();
    let mut blessed = String::new();
    for line in page.lines() {
        let columns: Vec<&str> = line.split(" | ").collect();
        let id = columns[0].trim_start_matches("| ");
        if ids(id).is_empty() || columns.len() < 4 {
            blessed += &format!("{line}\n");
            continue;
        }
        let tests = proofs.remove(id);
        assert!(tests.is_some(), "{id} has no test");
        let tests = tests.unwrap_or_default().join(", ");
        let [fact, control] = [columns[1], columns[2]];
        assert!(!control.trim().is_empty(), "{id} has no control");
        blessed += &format!("| {id} | {fact} | {control} | {tests} |\n");
    }
    assert!(proofs.is_empty(), "not in FACTS.md: {proofs:?}");
    if env::var_os("HARNESS_BLESS").is_some() {
        fs::write(&path, &blessed).expect("FACTS.md");
    }
    let hint = "FACTS.md names other tests: run this one with HARNESS_BLESS=1";
    assert!(fs::read_to_string(&path).expect("FACTS.md") == blessed, "{hint}");
}
