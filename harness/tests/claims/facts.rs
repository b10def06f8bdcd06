//! Each fact of FACTS.md has a test, and each fact that a test names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::{env, fs};

use assert_cmd::assert::OutputAssertExt;

use crate::common;

/// The tests of this program, as it lists them itself, but those that only run
/// when they are asked for. A file that is not compiled has none, whatever is
/// written in it.
fn tests() -> BTreeSet<String> {
    let list = |options: &[&str]| {
        let this = env::current_exe().expect("this program");
        let mut list = Command::new(this);
        list.args(["--list", "--format", "terse"]).args(options);
        let output = list.assert().success().get_output().stdout.clone();
        listed(&String::from_utf8(output).expect("text"))
    };
    list(&[]).difference(&list(&["--ignored"])).cloned().collect()
}

/// The names in a list of tests, without that of a case: `module::name`, for
/// `module::name::case_1: test`.
fn listed(list: &str) -> BTreeSet<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let names = tests.map(|test| {
        let mut parts = test.split("::");
        let [module, name] = [parts.next(), parts.next()];
        format!("{}::{}", module.unwrap_or(""), name.unwrap_or(""))
    });
    names.collect()
}

/// For each fact the functions that name it in their doc comments: `/// U1`,
/// `/// G2, G3`, `/// V3: and some words`.
fn proofs() -> BTreeMap<String, Vec<String>> {
    let dir = common::package().join("tests/claims");
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
        for (id, name) in named(&text) {
            let proof = format!("{module}::{name}");
            proofs.entry(id).or_default().push(proof);
        }
    }
    proofs
}

/// The facts that the functions of this source name, and the functions.
fn named(source: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let mut doc: Option<&str> = None;
    for line in source.lines() {
        if let Some(words) = line.strip_prefix("/// ") {
            doc = doc.or(Some(words));
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap_or_default();
            let ids = doc.take().into_iter().flat_map(ids);
            named.extend(ids.map(|id| (id, name.to_string())));
        } else if line.is_empty() {
            doc = None;
        }
    }
    named
}

/// The ids of facts at the start of a doc comment.
fn ids(words: &str) -> Vec<String> {
    let head = words.split([':', '.']).next().unwrap_or_default();
    head.split(", ").filter(|it| is_id(it)).map(String::from).collect()
}

/// A letter and a number.
fn is_id(word: &str) -> bool {
    let number = word.strip_prefix(|it: char| it.is_ascii_uppercase());
    number.is_some_and(|it| it.parse::<u32>().is_ok())
}

/// The page with the tests of each fact in the last column.
///
/// # Errors
/// What is wrong: a row without a test or a control, a fact that is in no row,
/// a test that does not run.
fn blessed(
    page: &str,
    mut proofs: BTreeMap<String, Vec<String>>,
    tests: &BTreeSet<String>,
) -> Result<String, String> {
    for (id, proof) in proofs
        .iter()
        .flat_map(|(id, it)| it.iter().map(move |proof| (id, proof)))
    {
        if !tests.contains(proof) {
            return Err(format!(
                "{proof} names {id}, and is no test that runs"
            ));
        }
    }
    let mut blessed = String::new();
    for line in page.lines() {
        let is_head = line == "| id | fact | control | claims |"
            || line == "| id | fact | since | control | claims |"
            || line.trim_matches(['|', '-']).is_empty();
        if !line.starts_with('|') || is_head {
            blessed += &format!("{line}\n");
            continue;
        }
        let columns: Vec<&str> = line.split(" | ").collect();
        // Some tables have a column `since` behind the fact.
        let (4 | 5, [id, fact @ .., control, _]) =
            (columns.len(), &columns[..])
        else {
            return Err(format!("four columns, in the row: {line}"));
        };
        let fact = fact.join(" | ");
        let id = id.trim_start_matches("| ");
        if !is_id(id) {
            return Err(format!("a letter and a number, in the row: {line}"));
        }
        let Some(tests) = proofs.remove(id) else {
            return Err(format!("{id} has no test, or is there twice"));
        };
        if control.trim().is_empty() {
            return Err(format!("{id} has no control"));
        }
        let tests = tests.iter().map(|test| format!("`{test}`"));
        let tests = tests.collect::<Vec<_>>().join(", ");
        blessed += &format!("| {id} | {fact} | {control} | {tests} |\n");
    }
    match proofs.is_empty() {
        true => Ok(blessed),
        false => Err(format!("not in FACTS.md: {proofs:?}")),
    }
}

#[test]
fn every_fact_has_a_test_and_every_test_its_fact() {
    common::name_broken_claims();
    let path = common::package().join("FACTS.md");
    let page = fs::read_to_string(&path).expect("FACTS.md");
    let blessed = match blessed(&page, proofs(), &tests()) {
        Ok(blessed) => blessed,
        Err(why) => panic!("{why}"),
    };
    harness::all_known().expect("a variable");
    if env::var_os("HARNESS_BLESS").is_some_and(|it| !it.is_empty()) {
        fs::write(&path, &blessed).expect("FACTS.md");
    }
    let hint = "FACTS.md names other tests: run this one with HARNESS_BLESS=1";
    assert!(fs::read_to_string(&path).expect("FACTS.md") == blessed, "{hint}");
}

#[test]
fn list_of_tests_is_this_programs_own() {
    let tests = tests();
    assert!(tests.contains("facts::list_of_tests_is_this_programs_own"));
    assert!(!tests.contains("facts::tests"), "{tests:?}");
    let list = "a::b: test\na::c::case_1_x: test\na::c::case_2: test\n";
    assert_eq!(listed(list), ["a::b", "a::c"].map(String::from).into());
}

#[test]
fn page_cannot_lie() {
    common::name_broken_claims();
    let head = "| id | fact | control | claims |\n|---|---|---|---|\n";
    let row = |id: &str| format!("| {id} | a fact | its control | ? |\n");
    let source = "/// T1, T2: words\n#[test]\nfn a() {\n\n/// A word\nfn b() {";
    let ghost = "/// T1\n#[test]\nfn ghost() {";
    let bless = |page: String, sources: &[&str]| {
        let mut proofs = BTreeMap::<String, Vec<String>>::new();
        for (id, name) in sources.iter().flat_map(|source| named(source)) {
            proofs.entry(id).or_default().push(format!("it::{name}"));
        }
        let tests = ["it::a", "it::b"].map(String::from).into();
        blessed(&format!("{head}{page}"), proofs, &tests)
    };
    let right = row("T1") + &row("T2");
    let proven = right.replace('?', "`it::a`");
    assert_eq!(bless(right.clone(), &[source]), Ok(head.to_string() + &proven));
    for (page, sources, why) in [
        (right.clone(), &[source, ghost][..], "it::ghost names T1, and is no"),
        (right.clone() + &row("Z9"), &[source], "Z9 has no test"),
        (right.clone() + &row("T2"), &[source], "T2 has no test, or is there"),
        (row("T1"), &[source], "not in FACTS.md: {\"T2\""),
        (right.clone() + &row("rule"), &[source], "a letter and a number"),
        (right.clone() + "| T3 | a fact | ? |\n", &[source], "four columns"),
        (right.replace("its control", ""), &[source], "T1 has no control"),
    ] {
        let error = bless(page, sources).expect_err(why);
        assert!(error.starts_with(why), "{why}: {error}");
    }
}
