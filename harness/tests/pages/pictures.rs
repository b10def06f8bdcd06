//! The pictures of the pages. `X.zh-CN.svg` is `X.svg` with other words: both
//! are drawn once, and are checked for what nobody sees who looks at them.

use std::collections::BTreeMap;

use regex::Regex;

use super::translation::{all_pages, is_chinese};
use super::{files, text_of};

const CHINESE: &str = ".zh-CN.svg";

/// All pictures, by their names.
fn pictures() -> BTreeMap<String, String> {
    let mut files = files();
    files.retain(|it| it.starts_with("harness/pictures"));
    let named = files.iter().map(|file| {
        let name = file.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), text_of(file))
    });
    named.collect()
}

/// The picture without its words, which are in three elements, and without its
/// language.
fn drawing(svg: &str) -> String {
    let words = Regex::new("(<(?:title|desc|text)(?: [^>]*)?>)[^<]*");
    let drawing = words.expect("an expression").replace_all(svg, "$1");
    drawing.replacen("lang=\"zh-CN\"", "lang=\"en\"", 1)
}

/// The text of the first such element.
fn element<'a>(svg: &'a str, name: &str) -> Option<&'a str> {
    let (_, from) = svg.split_once(&format!("<{name} id=\"{name}\">"))?;
    from.split('<').next()
}

#[test]
fn each_picture_is_the_same_drawing_in_both_languages() {
    let pictures = pictures();
    assert!(!pictures.is_empty());
    for (name, picture) in &pictures {
        let other = match name.strip_suffix(CHINESE) {
            Some(stem) => format!("{stem}.svg"),
            None => name.replace(".svg", CHINESE),
        };
        let other = pictures.get(&other);
        let other = other.unwrap_or_else(|| panic!("{name} alone"));
        assert!(drawing(picture) == drawing(other), "{name}");
    }
}

#[test]
fn each_picture_has_its_text_and_two_colour_schemes() {
    for (name, svg) in pictures() {
        for part in ["title", "desc"] {
            let text = element(&svg, part).unwrap_or_default();
            assert!(!text.is_empty(), "{name}: no {part}");
            let chinese = name.ends_with(CHINESE);
            assert_eq!(is_chinese(text), chinese, "{name}: {part}");
        }
        let dark = "@media (prefers-color-scheme: dark)";
        assert!(svg.contains(dark), "{name}: it is for light paper only");
    }
}

/// A page shows each picture, in its language, with words in its place.
#[test]
fn each_picture_is_on_a_page_of_its_language() {
    let pages: Vec<_> =
        all_pages().into_iter().map(|it| (text_of(&it), it)).collect();
    for name in pictures().into_keys() {
        let chinese = name.ends_with(CHINESE);
        let path = format!("pictures/{name})");
        let shown = pages.iter().any(|(text, page)| {
            let page = page.to_string_lossy().ends_with(".zh-CN.md");
            page == chinese && text.lines().any(|line| shows(line, &path))
        });
        assert!(shown, "no page shows {name}");
    }
}

/// Whether a line is a picture with at least a few words of description.
fn shows(line: &str, path: &str) -> bool {
    let Some((words, to)) = line.split_once("](") else { return false };
    line.starts_with("![") && words.len() > 20 && to.ends_with(path)
}

/// The control.
#[test]
fn picture_that_differs_is_noticed() {
    let picture = "<svg lang=\"en\"><style>.a{}</style><desc id=\"desc\">b\
                   </desc><text x=\"1\">c</text></svg>";
    let same = picture.replace(">b<", ">乙<").replace(">c<", ">丙<");
    let same = same.replace("lang=\"en\"", "lang=\"zh-CN\"");
    assert_eq!(drawing(picture), drawing(&same));
    for (from, to) in [(".a{}", ".b{}"), ("x=\"1\"", "x=\"2\""), ("乙", "<b/>")]
    {
        let other = same.replace(from, to);
        assert_ne!(drawing(picture), drawing(&other), "{from}");
    }
    assert!(shows("![three mounts at /proc](../p/a.svg)", "p/a.svg)"));
    assert!(!shows("![](../p/a.svg)", "p/a.svg)"));
}
