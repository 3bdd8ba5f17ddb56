//! One self-contained page: the drawing, zoomable, with search, a legend and a panel for the chosen node.

use super::layout::Layout;
use super::{Dump, Kind, escaped, svg};
use crate::text::is_visible;

const PAGE: &str = include_str!("page.html");

impl Dump<'_> {
    /// The page. It loads nothing from anywhere and works from a file.
    pub fn html(&self) -> String {
        let layout = Layout::new(self.graph, self.printer.order());
        let legend: String = Kind::ALL
            .iter()
            .map(|kind| {
                format!(
                    "<button data-kind=\"{0}\" style=\"background:{1}\">{0}</button>",
                    kind.name(),
                    kind.colour()
                )
            })
            .collect();
        let data = in_script(&self.json().to_string());
        filled(|marker| match marker {
            "width" => format!("{:.0}", layout.width),
            "height" => format!("{:.0}", layout.height),
            "name" => escaped(self.graph.name()),
            "style" => svg::STYLE.to_owned(),
            "legend" => legend.clone(),
            "drawing" => self.drawing(&layout),
            _ => data.clone(),
        })
    }
}

/// JSON inside a script element, which `<` could end early. Outside strings JSON holds nothing that is escaped here.
fn in_script(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter != '<' && is_visible(letter) {
            true => text.push(letter),
            false => text.push_str(&format!("\\u{:04x}", u32::from(letter))),
        }
    }
    text
}

/// The page with every `{{marker}}` replaced.
fn filled(value: impl Fn(&str) -> String) -> String {
    let mut parts = PAGE.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (marker, rest) = part.split_once("}}").unwrap_or((part, ""));
        page.push_str(&value(marker));
        page.push_str(rest);
    }
    page
}
