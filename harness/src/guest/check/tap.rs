//! The output: the Test Anything Protocol, version 13, which a person reads as
//! well as prove(1) does. (Version 14 is a parse error for many a prove.)

use std::io;

use crate::streams::print;

/// What a row says.
pub enum Verdict {
    Ok,
    /// What it has, and something to know about it.
    Note(String),
    /// What was measured.
    NotOk(String),
    /// Why it was not asked.
    Skip(String),
}

impl Verdict {
    /// Ok, or not ok for this reason.
    pub fn unless(reason: Option<impl Into<String>>) -> Verdict {
        reason.map_or(Verdict::Ok, |reason| Verdict::NotOk(reason.into()))
    }

    pub fn skip(reason: &str) -> io::Result<Verdict> {
        Ok(Verdict::Skip(reason.into()))
    }
}

/// Counts the rows and prints them.
#[derive(Default)]
pub struct Tap {
    /// How many there are by now.
    pub rows: usize,
    /// How many are not ok.
    pub failed: usize,
}

/// How wide the output is, in columns.
const WIDTH: usize = 80;

impl Tap {
    pub fn begin(&self, words: &[String], rows: usize) -> io::Result<()> {
        say("TAP version 13")?;
        comment("# ", &format!("check {}", words.join(" ")))?;
        say(&format!("1..{rows}"))
    }

    pub fn row(&mut self, text: &str, verdict: &Verdict) -> io::Result<()> {
        self.rows += 1;
        let number = self.rows;
        match verdict {
            Verdict::Ok => say(&format!("ok {number} - {text}")),
            Verdict::Note(note) => {
                say(&format!("ok {number} - {text}"))?;
                comment("#   ", note)
            }
            Verdict::NotOk(reason) => {
                self.failed += 1;
                say(&format!("not ok {number} - {text}"))?;
                comment("#   ", reason)
            }
            Verdict::Skip(reason) => {
                say(&format!("ok {number} - {text} # SKIP {reason}"))
            }
        }
    }

    /// Says where the rows are explained, if one is not ok.
    pub fn end(&self) -> io::Result<()> {
        let Tap { rows, failed } = self;
        match failed {
            0 => Ok(()),
            _ => comment(
                "# ",
                &format!(
                    "{failed} of {rows} rows are not ok: harness/CHECK.md says \
                     what each means, and what to do"
                ),
            ),
        }
    }
}

/// No row follows, for this reason. prove(1) reads no further.
pub fn bail_out(reason: &str, more: &str) -> io::Result<()> {
    if !more.is_empty() {
        comment("#   ", more)?;
    }
    say(&format!("Bail out! {reason}"))
}

fn say(line: &str) -> io::Result<()> {
    print(&format!("{line}\n"))
}

/// A text in lines that begin with `mark`, wrapped between words. It comes from
/// the container, so control characters are escaped.
fn comment(mark: &str, text: &str) -> io::Result<()> {
    let mut line = String::from(mark);
    for word in one_line(text).split(' ') {
        let is_first = line.len() == mark.len();
        let width = line.chars().count() + 1 + word.chars().count();
        if !is_first && width > WIDTH {
            say(line.trim_end())?;
            line = mark.into();
        } else if !is_first {
            line.push(' ');
        }
        line += word;
    }
    say(line.trim_end())
}

/// The text's words in one line, without a control character.
fn one_line(text: &str) -> String {
    crate::failure::printable(
        &text.split_whitespace().collect::<Vec<_>>().join(" "),
    )
}
