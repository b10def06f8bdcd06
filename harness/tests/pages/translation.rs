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
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::text::{Section, sections, with_others};
use super::{examples, files, text_of, workspace};

/// The sections that have a translation.
fn translated(text: &str) -> Vec<Section> {
    let mut sections = sections(text);
    let english_only = "<!-- English only -->".to_string();
    sections.retain(|it| !it.comments.contains(&english_only));
    sections
}

impl Section {
    /// The hash (FNV-1a) of the heading and the prose, in such a comment. The
    /// blocks are compared themselves, and a change in them needs no new
    /// translation.
    fn hash(&self) -> String {
        let words = self.prose.iter().flat_map(|line| line.split_whitespace());
        let mut hash: u32 = 0x811c_9dc5;
        for word in std::iter::once(&*self.name).chain(words) {
            for byte in word.bytes().chain([b' ']) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        format!("<!-- en: {hash:08x} -->")
    }

    /// What it has as often as the section that it translates. `page` is the
    /// page that it is on.
    fn counted(
        &self,
        root: &Path,
        page: &Path,
        names: &[PathBuf],
    ) -> [String; 4] {
        let rows = self.prose.iter().filter(|line| line.starts_with('|'));
        let own = target(root, page, "");
        // Another test finds broken links.
        let links = self.links().into_iter().map(|it| target(root, page, it));
        let links = links.filter(|it| *it != own).flatten();
        let mut links: Vec<String> = links.collect();
        links.sort();
        let text = self.prose.join(" ");
        let code: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        let names = names.iter().filter_map(|it| it.file_stem());
        let names = names.filter(|it| code.iter().any(|code| it == code));
        let names: BTreeSet<_> = names.collect();
        [
            format!("{} blocks", self.blocks.len()),
            format!("{} rows of tables", rows.count()),
            format!("links {links:?}"),
            format!("examples {names:?}"),
        ]
    }

    fn links(&self) -> Vec<&str> {
        let parts = self.prose.iter().flat_map(|it| it.split("](").skip(1));
        parts.filter_map(|part| part.split(')').next()).collect()
    }

    /// A line that continues the paragraph of the one before it. The browser
    /// would join the two with a space, which Chinese does not have.
    fn wrapped(&self) -> Option<&String> {
        let is_text = |line: &str| {
            let others = ["|", "<", "```"];
            !line.is_empty() && !others.iter().any(|it| line.starts_with(it))
        };
        let is_item = |line: &str| {
            let number = line.split_once(". ").map(|it| it.0);
            line.starts_with("- ")
                || number.is_some_and(|it| it.parse::<u32>().is_ok())
        };
        let joined = self.prose.windows(2).find(|two| {
            let next = two[1].trim_start();
            is_text(&two[0]) && is_text(next) && !is_item(next)
        });
        joined.map(|two| &two[1])
    }
}

/// All pages of this repository, by their paths from the workspace.
pub fn all_pages() -> Vec<PathBuf> {
    let mut pages = files();
    pages.retain(|it| it.extension() == Some("md".as_ref()));
    pages
}

/// The English page, or picture, of one in either language.
fn english(page: &Path) -> PathBuf {
    page.to_string_lossy().replace(".zh-CN.", ".").into()
}

/// The Chinese page, if there is one.
pub fn chinese(page: &Path) -> Option<PathBuf> {
    let page = page.with_extension("zh-CN.md");
    workspace().join(&page).is_file().then_some(page)
}

pub fn is_chinese(text: &str) -> bool {
    text.contains(|it| ('\u{4e00}'..'\u{a000}').contains(&it))
}

/// The target of a link: an address, a file, or a page, for which it is the
/// English page and the number of the heading.
fn target(root: &Path, page: &Path, link: &str) -> Result<String, String> {
    if link.starts_with("https://") {
        return Ok(link.into());
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = match file {
        "" => page.to_path_buf(),
        _ => page.parent().expect("a folder").join(file),
    };
    let path = root.join(path).canonicalize();
    let path =
        path.map_err(|_| format!("{}: {link} leads nowhere", page.display()))?;
    let mut at = english(&path).display().to_string();
    if !anchor.is_empty() {
        let text = fs::read_to_string(&path).expect("a page");
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
    let [ours, theirs] = [page, translation].map(|page| {
        translated(&fs::read_to_string(root.join(page)).expect("a page"))
    });
    let same = ours.iter().zip(&theirs);
    let same = same.take_while(|(a, b)| a.level == b.level).count();
    if same < ours.len().max(theirs.len()) {
        let name = |it: &[Section]| {
            it.get(same).map_or("nothing", |it| &it.name).to_string()
        };
        return vec![format!(
            "its headings differ: {} in English, here {}; the first is \"{}\" \
             in English, here \"{}\"",
            ours.len(),
            theirs.len(),
            name(&ours),
            name(&theirs)
        )];
    }
    let mut wrong = Vec::new();
    let names = examples();
    for (here, there) in ours.iter().zip(&theirs) {
        let mut complain = |what: String| {
            wrong.push(format!("\"{}\" ({}): {what}", here.name, there.name));
        };
        if !there.comments.contains(&here.hash()) {
            complain("the English has changed: translate it anew".into());
        }
        let [ours, theirs] = [(here, page), (there, translation)]
            .map(|(it, page)| it.counted(root, page, &names));
        for (a, b) in ours.iter().zip(theirs).filter(|(a, b)| *a != b) {
            complain(format!("{a} in English, here {b}"));
        }
        let mut pairs = here.blocks.iter().zip(&there.blocks);
        if here.blocks.len() == there.blocks.len()
            && let Some((ours, _)) = pairs.find(|(a, b)| a != b)
        {
            let first = ours.lines().nth(1).unwrap_or_default();
            complain(format!("another block in place of `{first}`"));
        }
        let prose = there.prose.join("");
        let has_words = prose.contains(|it: char| it.is_ascii_lowercase());
        if has_words && !is_chinese(&prose) {
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
    let mut hashes = translated(page).into_iter().map(|it| it.hash());
    let mut text = String::new();
    for section in sections(translation) {
        let mut lines = section.text.split_inclusive('\n');
        text.extend(lines.next());
        text += &hashes.next().unwrap_or("<!-- en: none -->".into());
        text += "\n";
        text.extend(lines.filter(|it| !it.starts_with("<!-- en: ")));
    }
    text
}

/// The translation with the blocks of its page, if both have the same number.
pub fn with_blocks(page: &str, translation: &str) -> String {
    let [ours, theirs] = [page, translation].map(|text| -> Vec<String> {
        translated(text).into_iter().flat_map(|it| it.blocks).collect()
    });
    if ours.len() != theirs.len() {
        return translation.into();
    }
    let theirs = theirs.iter().map(String::as_str);
    with_others(translation, theirs.zip(ours))
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
    for page in all_pages() {
        let english = english(&page);
        if english != page {
            for complaint in complaints(workspace(), &english, &page) {
                wrong += &format!("\n{}: {complaint}", page.display());
            }
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
        for link in sections(&text_of(&page)).iter().flat_map(Section::links) {
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
    let copied = with_blocks(&blessed, &right);
    assert_eq!(compare(&blessed, &copied), [""; 0]);
}
