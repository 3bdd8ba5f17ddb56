//! What a file's name promises about its content.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::cli::printable::shell_word;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// a picture
    Png,
    /// a page
    Html,
}

impl Format {
    /// Endings of names of such files; the first one is proposed.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Format::Png => &["png", "apng"],
            Format::Html => &["html", "htm", "xhtml"],
        }
    }

    fn title(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Html => "HTML",
        }
    }
}

/// Refuses a name that promises another kind of file. `x`, `x.png`, `x.PNG`, `x.png.part` and `x.2` are names of pictures;
/// `x.jpg` is not.
pub fn check_extension(flag: &str, path: &Path, format: Format) -> Result<(), Failure> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let mut endings = name.split('.').skip(1).filter(|ending| !ending.is_empty());
    let last = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let promises_nothing = !last.starts_with(|letter: char| letter.is_alphabetic());
    if promises_nothing || endings.any(|ending| format.extensions().contains(&ending)) {
        return Ok(());
    }
    let title = format.title();
    let proposed = path.with_extension(format.extensions()[0]);
    let proposed = shell_word(&proposed.display().to_string());
    Err(Failure::new(format!(
        "{}: `.{last}` files cannot be written, only {title}",
        path.display()
    ))
    .hint(format!(
        "give a name that ends in .{}: `{flag} {proposed}`",
        format.extensions()[0]
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_a_format() {
        for name in [
            "x",
            "x.png",
            "x.PNG",
            "x.png.part",
            "v1.5",
            ".png",
            ".hidden",
            "a.b/x",
            "x.",
        ] {
            assert!(check_extension("-o", name.as_ref(), Format::Png).is_ok(), "{name}");
        }
        for name in [
            "x.jpg",
            "x.JPEG",
            "x.webp",
            "x.gif",
            "x.tiff",
            "a.png/x.bmp",
            "x.html",
            "x.txt",
        ] {
            let failure = check_extension("-o", name.as_ref(), Format::Png).expect_err(name);
            assert!(
                failure.to_string().contains("hint: give a name that ends in .png"),
                "{failure}"
            );
        }
        assert!(check_extension("--report", "x.htm".as_ref(), Format::Html).is_ok());
        assert!(check_extension("--report", "x.pdf".as_ref(), Format::Html).is_err());
    }
}
