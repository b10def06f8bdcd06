//! A page `X.zh-CN.md` beside `X.md` is its translation: the same sessions
//! and drawings, byte for byte, and the same headings, rows, links and
//! examples. Sessions are typed once, from the English page.
//!
//! Below each heading of the translation is a comment with the hash of the
//! English section that it translates: `<!-- en: 1a2b3c4d -->`. If the English
//! prose has changed since, the section is out of date, and a test names it.
//! After it is translated anew, `HARNESS_TRANSLATED=X.zh-CN.md` writes the new
//! hashes; nothing else writes them. A section of the English page with the
//! comment `<!-- English only -->` has no translation.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::{env, fs};

use super::workspace;

const CHINESE: &str = ".zh-CN.md";

/// A heading, and everything below it up to the next one.
#[derive(Debug, Default)]
struct Section {
    /// The heading's line, without the `#`s.
    name: String,
    /// The number of `#`s.
    level: usize,
    /// The hash in the comment below the heading.
    translates: Option<String>,
    english_only: bool,
    /// All of it, with the heading.
    text: String,
    /// Its lines without the heading, the comment and the blocks.
    prose: Vec<String>,
    /// Its blocks, each from fence to fence.
    blocks: Vec<String>,
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        let level = line.bytes().take_while(|it| *it == b'#').count();
        if block.is_none() && level > 0 && line[level..].starts_with(' ') {
            let name = line[level..].trim().into();
            sections.push(Section { name, level, ..Section::default() });
        }
        let Some(section) = sections.last_mut() else { continue };
        section.text += &format!("{line}\n");
        let fence = line.starts_with("```");
        if let Some(inner) = block.take() {
            let inner = format!("{inner}{line}\n");
            match fence {
                true => section.blocks.push(inner),
                false => block = Some(inner),
            }
        } else if fence {
            block = Some(format!("{line}\n"));
            // The block's place in the prose counts, too.
            section.prose.push("```".into());
        } else if let Some(hash) = marker(line) {
            section.translates = Some(hash.into());
        } else if line == "<!-- English only -->" {
            section.english_only = true;
        } else if section.text.lines().count() > 1 {
            section.prose.push(line.into());
        }
    }
    sections
}

/// The sections that have a translation.
fn translated(text: &str) -> Vec<Section> {
    let mut sections = sections(text);
    sections.retain(|section| !section.english_only);
    sections
}

/// The hash in such a comment.
fn marker(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- en: ")?.strip_suffix(" -->")
}

impl Section {
    /// The hash (FNV-1a) of the heading and the prose. The blocks are compared
    /// themselves, and a change in them needs no new translation.
    fn hash(&self) -> String {
        let words = self.prose.iter().flat_map(|line| line.split_whitespace());
        let mut hash: u32 = 0x811c_9dc5;
        for word in std::iter::once(&*self.name).chain(words) {
            for byte in word.bytes().chain([b' ']) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        format!("{hash:08x}")
    }

    fn rows(&self) -> usize {
        self.prose.iter().filter(|line| line.starts_with('|')).count()
    }

    /// The examples that the section names in code spans.
    fn examples(&self, all: &BTreeSet<String>) -> Vec<String> {
        let text = self.prose.join(" ");
        let code = text.split('`').skip(1).step_by(2);
        let named = code.filter(|code| all.contains(*code));
        let named: BTreeSet<&str> = named.collect();
        named.into_iter().map(String::from).collect()
    }

    fn links(&self) -> Vec<&str> {
        let parts = self.prose.iter().flat_map(|it| it.split("](").skip(1));
        parts.filter_map(|part| part.split(')').next()).collect()
    }

    /// A line that continues the paragraph of the one before it. The browser
    /// would join the two with a space, which Chinese does not have.
    fn wrapped(&self) -> Option<&String> {
        let begins = |line: &str| {
            line.is_empty()
                || ["|", "- ", "<", "```"].iter().any(|it| line.starts_with(it))
                || line.split_once(". ").is_some_and(|(number, _)| {
                    number.bytes().all(|it| it.is_ascii_digit())
                })
        };
        let lines = self.prose.windows(2);
        let joined = lines.filter(|two| {
            let after_text = !["", "```"].contains(&&*two[0])
                && !two[0].starts_with('|')
                && !two[0].starts_with('<');
            after_text && !begins(two[1].trim_start())
        });
        joined.map(|two| &two[1]).next()
    }
}

/// All pages of this repository, by their paths from the workspace.
pub fn all_pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut dirs = vec![workspace().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    dirs.push(path);
                }
            } else if name.ends_with(".md") {
                let path = path.strip_prefix(workspace()).expect("below");
                pages.push(path.to_path_buf());
            }
        }
    }
    pages.sort();
    pages
}

fn read(root: &Path, page: &Path) -> String {
    fs::read_to_string(root.join(page)).expect("a page")
}

/// The English page, or picture, of one in either language.
fn english(page: &Path) -> PathBuf {
    page.to_string_lossy().replace(".zh-CN.", ".").into()
}

/// The Chinese page, if there is one.
pub fn chinese(page: &Path) -> Option<PathBuf> {
    let name = page.to_string_lossy();
    let page = PathBuf::from(name.strip_suffix(".md")?.to_string() + CHINESE);
    workspace().join(&page).is_file().then_some(page)
}

/// The names of all examples.
fn examples() -> BTreeSet<String> {
    let dirs = fs::read_dir(workspace()).expect("a folder").flatten();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.path().join("examples")));
    let names = files.flatten().flatten().map(|file| file.path());
    let names = names.filter_map(|it| Some(it.file_stem()?.to_str()?.into()));
    names.collect()
}

/// The target of a link: an address, a file, or a page, for which it is the
/// English page and the number of the heading.
fn target(root: &Path, page: &Path, link: &str) -> Result<String, String> {
    if link.starts_with("https://") {
        return Ok(link.into());
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let mut path = match file {
        "" => page.to_path_buf(),
        _ => page.parent().unwrap_or(Path::new("")).join(file),
    };
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    path = clean;
    if !root.join(&path).exists() {
        return Err(format!("{}: {link} leads nowhere", page.display()));
    }
    let mut at = english(&path).display().to_string();
    if !anchor.is_empty() {
        let text = read(root, &path);
        let is_it = |it: &Section| slug(&it.name) == anchor;
        if !sections(&text).iter().any(is_it) {
            let page = page.display();
            return Err(format!("{page}: {link}: there is no such heading"));
        }
        at += &match translated(&text).iter().position(is_it) {
            Some(heading) => format!("#{heading}"),
            None => format!("#{anchor}"), // A section in English only.
        };
    }
    Ok(at)
}

/// The anchor that GitHub makes of a heading.
fn slug(heading: &str) -> String {
    let letters = heading.chars().flat_map(char::to_lowercase);
    letters
        .filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it))
        .map(|it| if it == ' ' { '-' } else { it })
        .collect()
}

/// The differences between a translation and its page: a line for each.
fn complaints(root: &Path, page: &Path, translation: &Path) -> Vec<String> {
    let [ours, theirs] =
        [page, translation].map(|it| translated(&read(root, it)));
    let mut wrong = Vec::new();
    let names = examples();
    let own = english(page).display().to_string();
    let levels = |it: &[Section]| it.iter().map(|it| it.level).collect();
    let [here, there]: [Vec<usize>; 2] = [levels(&ours), levels(&theirs)];
    if here != there {
        let first = here.iter().zip(&there).position(|(a, b)| a != b);
        let first = first.unwrap_or(here.len().min(there.len()));
        let name = |it: &[Section]| {
            it.get(first).map_or("nothing", |it| &it.name).to_string()
        };
        return vec![format!(
            "its headings differ: {} in English, here {}; the first is \"{}\" \
             in English, here \"{}\"",
            here.len(),
            there.len(),
            name(&ours),
            name(&theirs)
        )];
    }
    for (here, there) in ours.iter().zip(&theirs) {
        let mut complain = |what: String| {
            wrong.push(format!("\"{}\" ({}): {what}", here.name, there.name));
        };
        let hash = here.hash();
        if there.translates.as_ref() != Some(&hash) {
            complain("the English has changed: translate it anew".into());
        }
        if here.blocks.len() != there.blocks.len() {
            let (n, m) = (here.blocks.len(), there.blocks.len());
            complain(format!("{n} blocks in English, here {m}"));
        } else if here.blocks != there.blocks {
            let pairs = here.blocks.iter().zip(&there.blocks);
            let at = pairs.take_while(|(a, b)| a == b).count();
            let first = here.blocks[at].lines().nth(1).unwrap_or_default();
            complain(format!("another block in place of `{first}`"));
        }
        if here.rows() != there.rows() {
            let (n, m) = (here.rows(), there.rows());
            complain(format!("{n} rows of tables in English, here {m}"));
        }
        let links = |from: &Path, section: &Section| {
            let links = section.links().into_iter();
            // Another test finds broken links.
            let links = links.filter_map(|it| target(root, from, it).ok());
            let mut links: Vec<_> = links.filter(|it| *it != own).collect();
            links.sort();
            links
        };
        let (a, b) = (links(page, here), links(translation, there));
        if a != b {
            complain(format!("links {a:?} in English, here {b:?}"));
        }
        let (a, b) = (here.examples(&names), there.examples(&names));
        if a != b {
            complain(format!("examples {a:?} in English, here {b:?}"));
        }
        let prose = there.prose.join("");
        let is_chinese = |it| ('\u{4e00}'..'\u{a000}').contains(&it);
        if prose.chars().any(|it| it.is_ascii_lowercase())
            && !prose.chars().any(is_chinese)
        {
            complain("not translated".into());
        }
        if let Some(line) = there.wrapped() {
            complain(format!(
                "a paragraph must be one line, and this is a second: {line}"
            ));
        }
    }
    wrong
}

/// The translation with the hashes of the page as it is now.
fn with_hashes(page: &str, translation: &str) -> String {
    let hashes: Vec<String> =
        translated(page).iter().map(Section::hash).collect();
    let mut hashes = hashes.iter();
    let mut text = String::new();
    let mut in_block = false;
    for line in translation.lines() {
        in_block ^= line.starts_with("```");
        if marker(line).is_some() && !in_block {
            continue;
        }
        text += &format!("{line}\n");
        let level = line.bytes().take_while(|it| *it == b'#').count();
        if level > 0 && line[level..].starts_with(' ') && !in_block {
            let hash = hashes.next().map_or("none", |it| it);
            text += &format!("<!-- en: {hash} -->\n");
        }
    }
    text
}

/// The translation with the blocks of its page, if both have the same number.
pub fn with_blocks(page: &str, translation: &str) -> Option<String> {
    let blocks = |text| -> Vec<String> {
        translated(text).into_iter().flat_map(|it| it.blocks).collect()
    };
    let (ours, theirs) = (blocks(page), blocks(translation));
    if ours.len() != theirs.len() {
        return None;
    }
    let mut text = String::new();
    let mut rest = translation;
    for (here, there) in ours.iter().zip(&theirs) {
        let at = rest.find(&**there)?;
        text += &rest[..at];
        text += here;
        rest = &rest[at + there.len()..];
    }
    Some(text + rest)
}

/// Each translation has what its page has, and no section is out of date.
#[test]
fn each_translation_follows_its_page() {
    harness::all_known().expect("a variable");
    if let Some(done) = env::var_os("HARNESS_TRANSLATED") {
        let path = workspace().join(&done);
        let page = fs::read_to_string(workspace().join(english(&path)));
        let page = page.expect("HARNESS_TRANSLATED=X.zh-CN.md, beside X.md");
        let text = fs::read_to_string(&path).unwrap_or_else(|_| {
            translated(&page).into_iter().map(|it| it.text).collect()
        });
        fs::write(&path, with_hashes(&page, &text)).expect("a page");
    }
    let mut wrong = String::new();
    let pages = all_pages();
    let is_chinese =
        |page: &&PathBuf| page.to_string_lossy().ends_with(CHINESE);
    for translation in pages.iter().filter(is_chinese) {
        for complaint in
            complaints(workspace(), &english(translation), translation)
        {
            wrong += &format!("\n{}: {complaint}", translation.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// On every page, in both languages.
#[test]
fn every_link_leads_somewhere() {
    let mut wrong = String::new();
    let mut count = 0;
    for page in all_pages() {
        for link in
            sections(&read(workspace(), &page)).iter().flat_map(Section::links)
        {
            count += 1;
            if let Err(why) = target(workspace(), &page, link) {
                wrong += &format!("\n{why}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 20, "{count} links");
}

/// The control, with a small page and its translation: each difference is
/// noticed.
#[test]
fn translation_that_differs_in_one_place_is_noticed() {
    let page = "# a\nOne [b](#f), `orphan`.\n\n\
                | c |\n|---|\n\n```console\n$ d\ne\n```\n## f\ng\n";
    let chinese = page.replace("One", "一").replace("\ng\n", "\n七\n");
    let right = with_hashes(page, &chinese);
    let dir = tempfile::tempdir().expect("a folder");
    let compare = |page: &str, translation: &str| {
        let [english, chinese] = ["X.md", "X.zh-CN.md"].map(Path::new);
        for (path, text) in [(english, page), (chinese, translation)] {
            fs::write(dir.path().join(path), text).expect("a page");
        }
        complaints(dir.path(), english, chinese)
    };
    assert_eq!(compare(page, &right), [""; 0]);
    for (what, from, to, part) in [
        ("a missing heading", "## f\n", "", "its headings"),
        ("another block", "\ne\n", "\nE\n", "another block"),
        ("a missing block", "```console\n$ d\ne\n```\n", "", "blocks"),
        ("an extra row", "|---|\n", "|---|\n| x |\n", "rows"),
        ("another link", "[b](#f)", "b", "links"),
        ("another example", "`orphan`", "`zombie`", "examples"),
        ("no Chinese", "七", "seven", "not translated"),
        ("two lines", "七", "七\n八", "one line"),
    ] {
        assert!(right.contains(from), "{what}: {right}");
        let complaints = compare(page, &right.replacen(from, to, 1));
        let [complaint] = &complaints[..] else { panic!("{complaints:?}") };
        assert!(complaint.contains(part), "{what}: {complaint}");
    }
    // One more section, in English only.
    let more = format!("{page}## h\n<!-- English only -->\nwhatever\n");
    assert_eq!(compare(&more, &right), [""; 0]);
    assert_eq!(compare(&more.replace("only", "too"), &right).len(), 1);
    // The English prose has changed; and then only a session has.
    let complaints = compare(&page.replace("\ng\n", "\nG\n"), &right);
    assert_eq!(
        complaints,
        ["\"f\" (f): the English has changed: translate it anew"]
    );
    let blessed = page.replace("\ne\n", "\nE\n");
    let copied = with_blocks(&blessed, &right).expect("as many blocks");
    assert_eq!(compare(&blessed, &copied), [""; 0]);
}
