//! Holes: what a region encloses.

use fisec_tensor::Mask;

/// The mask with every enclosed hole of at most `largest` pixels filled. A hole is a set of inactive pixels, connected by
/// sides, that does not reach the border.
pub fn fill_holes(mask: &Mask, largest: usize) -> Mask {
    let mut bits = mask.bits().to_vec();
    let mut seen = bits.clone();
    for start in 0..bits.len() {
        if seen[start] {
            continue;
        }
        let hole = connected(mask, start, &mut seen);
        if hole.len() <= largest && !hole.iter().any(|&pixel| is_border(mask, pixel)) {
            hole.into_iter().for_each(|pixel| bits[pixel] = true);
        }
    }
    Mask::new(mask.height(), mask.width(), bits)
}

/// All inactive pixels that `start` reaches, marked as seen.
fn connected(mask: &Mask, start: usize, seen: &mut [bool]) -> Vec<usize> {
    let (height, width) = (mask.height(), mask.width());
    let mut found = vec![start];
    seen[start] = true;
    let mut next = 0;
    while let Some(&pixel) = found.get(next) {
        next += 1;
        let (row, column) = (pixel / width, pixel % width);
        let neighbours = [
            (row > 0).then(|| pixel - width),
            (row + 1 < height).then_some(pixel + width),
            (column > 0).then(|| pixel - 1),
            (column + 1 < width).then_some(pixel + 1),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            if !seen[neighbour] {
                seen[neighbour] = true;
                found.push(neighbour);
            }
        }
    }
    found
}

fn is_border(mask: &Mask, pixel: usize) -> bool {
    let (row, column) = (pixel / mask.width(), pixel % mask.width());
    row == 0 || column == 0 || row + 1 == mask.height() || column + 1 == mask.width()
}
