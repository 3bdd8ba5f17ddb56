//! The page that `run --report` writes: one file, no network, base and edit side by side.

mod pictures;
mod words;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fisec_diffusion::Image;
use fisec_tensor::Mask;

use super::failure::Failure;
use super::{printable, units};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("slider.js");

/// What the page shows.
pub struct Report<'a> {
    pub base_prompt: &'a str,
    pub prompt: &'a str,
    pub base: &'a Image,
    pub edited: &'a Image,
    /// active latents
    pub mask: &'a Mask,
    /// figure and what it counts, e.g. `11.8 %`, `of the image was recomputed`
    pub figures: Vec<(String, String)>,
    /// name and seconds
    pub phases: Vec<(&'static str, f64)>,
    /// name and value
    pub settings: Vec<(&'static str, String)>,
}

impl Report<'_> {
    /// The page.
    pub fn to_html(&self) -> Result<String, Failure> {
        let overlay = pictures::overlay(self.edited, self.mask);
        let difference = pictures::difference(self.base, self.edited);
        let fields = [
            ("style", STYLE.to_owned()),
            ("script", SCRIPT.to_owned()),
            ("title", escape(self.prompt)),
            ("prompt", words::marked(self.base_prompt, self.prompt)),
            ("base", data_uri(&self.base.to_png(&[])?)),
            ("edited", data_uri(&self.edited.to_png(&[])?)),
            ("overlay", data_uri(&overlay.to_png(&[])?)),
            ("difference", data_uri(&difference.to_png(&[])?)),
            ("outline", pictures::outline(self.mask)),
            ("width", self.edited.width.to_string()),
            ("height", self.edited.height.to_string()),
            ("figures", self.figures()),
            ("bar", self.bar()),
            ("times", self.times()),
            ("settings", self.settings()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Ok(fill(PAGE, &fields))
    }

    fn figures(&self) -> String {
        let figure = |(value, what): &(String, String)| {
            format!(
                "<li><strong>{}</strong><span>{}</span></li>",
                escape(value),
                escape(what)
            )
        };
        self.figures.iter().map(figure).collect()
    }

    fn total(&self) -> f64 {
        self.phases.iter().map(|(_, seconds)| seconds).sum::<f64>().max(1e-9)
    }

    fn bar(&self) -> String {
        let part = |(index, (name, seconds)): (usize, &(&str, f64))| {
            let share = 100.0 * seconds / self.total();
            format!("<i class=\"p{index}\" style=\"width:{share:.2}%\" title=\"{name}\"></i>")
        };
        self.phases.iter().enumerate().map(part).collect()
    }

    fn times(&self) -> String {
        let row = |(index, (name, seconds)): (usize, &(&str, f64))| {
            format!(
                "<tr><td><i class=\"p{index}\"></i>{name}</td><td>{}</td><td>{}</td></tr>",
                units::seconds(*seconds),
                units::percent(seconds / self.total())
            )
        };
        let rows: String = self.phases.iter().enumerate().map(row).collect();
        let total = units::seconds(self.total());
        format!("{rows}<tr class=\"sum\"><td>together</td><td>{total}</td><td></td></tr>")
    }

    fn settings(&self) -> String {
        let row = |(name, value): &(&str, String)| format!("<tr><th>{name}</th><td>{}</td></tr>", escape(value));
        self.settings.iter().map(row).collect()
    }
}

/// Replaces every `{{name}}`. Values are not searched for further names.
fn fill(page: &str, fields: &[(&str, String)]) -> String {
    let mut filled = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the page closes its names");
        let (_, value) = fields.iter().find(|(known, _)| *known == name).expect("a known name");
        filled += before;
        filled += value;
        rest = after;
    }
    filled + rest
}

fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// Text for elements and quoted attributes; what a browser would obey instead of showing is spelled out.
pub(super) fn escape(text: &str) -> String {
    let shown = printable::line(text);
    shown
        .chars()
        .map(|c| match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&quot;".into(),
            '\'' => "&#39;".into(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_shows_what_it_was_given() {
        let image = |byte| Image {
            width: 8,
            height: 8,
            rgb: vec![byte; 192],
        };
        let mask = Mask::from_fn(4, 4, |row, column| row == 1 && column == 2);
        let report = Report {
            base_prompt: "a dog",
            prompt: "a <cat>",
            base: &image(10),
            edited: &image(20),
            mask: &mask,
            figures: vec![("6.3 %".into(), "of the image".into())],
            phases: vec![("guide", 1.0), ("edit", 3.0)],
            settings: vec![("seed", "7".into())],
        };
        let html = report.to_html().unwrap();
        assert!(
            !html.contains("{{") && !html.contains("http"),
            "nothing is left open or fetched"
        );
        assert!(
            html.contains("<del>dog</del> <ins>&lt;cat&gt;</ins>"),
            "words are marked and escaped"
        );
        assert!(html.contains("width:75.00%") && html.contains("6.3 %") && html.contains("<th>seed</th><td>7</td>"));
    }
}
