//! The equation of an ONNX `Einsum`, e.g. `bhqd,bhkd->bhqk`.

use std::collections::BTreeMap;

use fisec_tensor::Shape;

/// The name of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// an axis that `...` stands for, counted from the last of them
    Ellipsis(usize),
    /// a letter
    Letter(char),
}

/// An equation for operands of known rank: every axis has a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    /// the labels of each operand's axes
    pub operands: Vec<Vec<Label>>,
    /// the labels of the result's axes
    pub result: Vec<Label>,
}

impl Equation {
    /// Reads an equation for operands of these ranks. Without `->` the result has the axes of the ellipsis and then, in
    /// the order of the alphabet, the letters that occur once.
    ///
    /// # Errors
    /// Says what of the equation is not understood or does not fit the ranks.
    pub fn parse(text: &str, ranks: &[usize]) -> Result<Self, String> {
        let text: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(format!(
                "`{text}` has {} terms for {} operands",
                terms.len(),
                ranks.len()
            ));
        }
        let operands = terms.iter().zip(ranks).map(|(term, &rank)| operand(term, rank));
        let operands = operands.collect::<Result<Vec<_>, _>>()?;
        let result = match right {
            Some(term) => explicit(term, &operands)?,
            None => implicit(&operands),
        };
        Ok(Equation { operands, result })
    }

    /// The length of every axis; one of length 1 repeats.
    ///
    /// # Errors
    /// Names an axis that has two lengths.
    pub fn sizes(&self, shapes: &[&Shape]) -> Result<BTreeMap<Label, usize>, String> {
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        for (labels, shape) in self.operands.iter().zip(shapes) {
            for (label, &size) in labels.iter().zip(shape.iter()) {
                let known = sizes.entry(*label).or_insert(size);
                match (*known, size) {
                    (known, size) if known == size || size == 1 => {}
                    (1, size) => *known = size,
                    (known, size) => return Err(format!("{label:?} is {known} and {size} long")),
                }
            }
        }
        Ok(sizes)
    }

    /// The shape of the result.
    ///
    /// # Errors
    /// Names an axis that has two lengths.
    pub fn result_shape(&self, shapes: &[&Shape]) -> Result<Shape, String> {
        let sizes = self.sizes(shapes)?;
        Ok(self.result.iter().map(|label| sizes[label]).collect())
    }

    /// Labels of operands that the result does not have: axes that are summed.
    pub fn summed(&self) -> Vec<Label> {
        let mut summed: Vec<Label> = self.operands.iter().flatten().copied().collect();
        summed.sort_unstable();
        summed.dedup();
        summed.retain(|label| !self.result.contains(label));
        summed
    }
}

/// The letters before and behind the ellipsis, and whether there is one.
fn split(term: &str) -> Result<(Vec<Label>, bool, Vec<Label>), String> {
    let (before, behind, has_ellipsis) = match term.split_once("...") {
        Some((before, behind)) => (before, behind, true),
        None => (term, "", false),
    };
    let letters = |part: &str| -> Result<Vec<Label>, String> {
        let label = |letter: char| match letter.is_ascii_alphabetic() {
            true => Ok(Label::Letter(letter)),
            false => Err(format!("`{term}` has `{letter}`, which names no axis")),
        };
        part.chars().map(label).collect()
    };
    Ok((letters(before)?, has_ellipsis, letters(behind)?))
}

fn operand(term: &str, rank: usize) -> Result<Vec<Label>, String> {
    let (mut labels, has_ellipsis, behind) = split(term)?;
    let named = labels.len() + behind.len();
    let more = rank.checked_sub(named).filter(|more| has_ellipsis || *more == 0);
    let more = more.ok_or_else(|| format!("`{term}` does not name the {rank} axes of its operand"))?;
    labels.extend((0..more).rev().map(Label::Ellipsis));
    labels.extend(behind);
    Ok(labels)
}

/// The axes of the longest ellipsis.
fn ellipsis(operands: &[Vec<Label>]) -> impl Iterator<Item = Label> {
    let depth = |label: &Label| match label {
        Label::Ellipsis(place) => place + 1,
        Label::Letter(_) => 0,
    };
    let longest = operands.iter().flatten().map(depth).max().unwrap_or(0);
    (0..longest).rev().map(Label::Ellipsis)
}

fn explicit(term: &str, operands: &[Vec<Label>]) -> Result<Vec<Label>, String> {
    let (mut labels, has_ellipsis, behind) = split(term)?;
    if has_ellipsis {
        labels.extend(ellipsis(operands));
    }
    labels.extend(behind);
    let known = |label: &Label| operands.iter().any(|operand| operand.contains(label));
    if let Some(label) = labels.iter().find(|label| !known(label)) {
        return Err(format!("`{term}` has {label:?}, which no operand has"));
    }
    match (1..labels.len()).find(|&later| labels[..later].contains(&labels[later])) {
        Some(again) => Err(format!("`{term}` has {:?} twice", labels[again])),
        None => Ok(labels),
    }
}

fn implicit(operands: &[Vec<Label>]) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    let letters = operands.iter().flatten();
    for label in letters.filter(|label| matches!(label, Label::Letter(_))) {
        *counts.entry(*label).or_default() += 1;
    }
    let once = counts.into_iter().filter(|(_, count)| *count == 1);
    ellipsis(operands).chain(once.map(|(label, _)| label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(text: &str, shapes: &[&[usize]]) -> Result<Vec<usize>, String> {
        let shapes: Vec<Shape> = shapes.iter().map(|&shape| shape.into()).collect();
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let shapes: Vec<&Shape> = shapes.iter().collect();
        Ok(Equation::parse(text, &ranks)?.result_shape(&shapes)?.to_vec())
    }

    #[test]
    fn results_have_the_axes_that_the_equation_names() {
        /// Equation, shapes of the operands, shape of the result.
        type Case<'a> = (&'a str, &'a [&'a [usize]], &'a [usize]);
        let cases: [Case<'_>; 9] = [
            ("bhqd,bhkd->bhqk", &[&[2, 3, 5, 4], &[2, 3, 7, 4]], &[2, 3, 5, 7]),
            ("b i d, b j d -> b i j", &[&[6, 5, 4], &[6, 7, 4]], &[6, 5, 7]),
            ("...qd,...kd->...qk", &[&[2, 3, 5, 4], &[3, 7, 4]], &[2, 3, 5, 7]),
            ("ij,jk", &[&[2, 3], &[3, 4]], &[2, 4]),
            ("ba", &[&[2, 3]], &[3, 2]),
            ("...ii->...i", &[&[5, 3, 3]], &[5, 3]),
            ("ij->", &[&[2, 3]], &[]),
            ("i...->...i", &[&[2, 3, 4]], &[3, 4, 2]),
            ("ab,bc,cd->ad", &[&[2, 3], &[3, 1], &[4, 5]], &[2, 5]),
        ];
        for (text, shapes, expected) in cases {
            assert_eq!(shape_of(text, shapes).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (text, shapes) in [
            ("ij,jk->ik", &[&[2, 3][..]][..]),
            ("ij->ik", &[&[2, 3]]),
            ("ij->ii", &[&[2, 3]]),
            ("ijk->i", &[&[2, 3]]),
            ("i1->i", &[&[2, 3]]),
            ("ij,jk->ik", &[&[2, 3], &[4, 5]]),
        ] {
            assert!(shape_of(text, shapes).is_err(), "{text}");
        }
    }
}
