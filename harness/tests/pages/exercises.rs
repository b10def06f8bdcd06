//! The exercises fit the present source, and name claims that exist. The
//! example `exercises` checks that exactly these claims fail; it takes minutes.

#[path = "../exercises/page.rs"]
mod page;

use super::{is_claim, text_of, workspace};
use page::{Exercise, exercises};

/// The exercises of the page.
fn all() -> Vec<Exercise> {
    exercises(&text_of("EXERCISES.md")).expect("each has all its parts")
}

/// What is wrong with an exercise: a line for each fault.
fn complaints(it: &Exercise) -> Vec<String> {
    let found = text_of(&it.file).matches(&it.old).count();
    let mut words = it.passes.split(' ');
    let is_demo = |it| workspace().join(it).join("src/main.rs").is_file();
    let mut faults = vec![
        (found != 1, format!("{found} times in {}: {}", it.file, it.old)),
        (it.old == it.new, "nothing is changed".into()),
        (!words.any(is_demo), format!("no demo is run: {}", it.passes)),
        (it.fails.is_empty(), "no claim fails".into()),
        (!it.fails.is_sorted(), "the answer is not sorted".into()),
    ];
    for claim in &it.fails {
        let not_run = format!("{} does not run {claim}", it.run);
        faults.push((!claim.starts_with(&it.run), not_run));
        let nosuch = format!("there is no claim {claim}");
        faults.push((is_claim(claim) != Some(true), nosuch));
    }
    faults.into_iter().filter(|it| it.0).map(|it| it.1).collect()
}

#[test]
fn each_exercise_fits_the_source_and_names_claims() {
    let mut wrong = String::new();
    for exercise in all() {
        for complaint in complaints(&exercise) {
            wrong += &format!("\n{}: {complaint}", exercise.title);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(all().len(), 6);
}

/// The control: each part of an exercise that is out of date is noticed.
#[test]
fn exercise_that_is_out_of_date_is_noticed() {
    let right = all().remove(0);
    assert_eq!(complaints(&right), [""; 0]);
    let change = |change: fn(&mut Exercise)| {
        let mut wrong = right.clone();
        change(&mut wrong);
        complaints(&wrong).join("\n")
    };
    for (wrong, part) in [
        (change(|it| it.old.insert(0, '!')), "0 times in"),
        (change(|it| it.fails[0].push('!')), "there is no claim"),
        (change(|it| it.run = "uts::".into()), "does not run"),
        (change(|it| it.new = it.old.clone()), "nothing is changed"),
        (change(|it| it.passes = "true".into()), "no demo is run"),
        (change(|it| it.fails.clear()), "no claim fails"),
        (change(|it| it.fails.reverse()), "not sorted"),
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
}
