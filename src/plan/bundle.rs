//! Reading a bundle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use bytes::Bytes;
use fisec_tensor::{Constant, HostTensor, Shape, Transform};
use memmap2::Mmap;
use serde_json::Value;

use crate::validate::{check_path, validate};
use crate::{FORMAT, FileHash, Plan, PlanError, Weight, WeightId, json, restore_replaced};

pub(crate) const PLAN: &str = "plan.json";
pub(crate) const WEIGHTS: &str = "weights.bin";

/// Files up to this size are hashed on opening, larger ones by [`Bundle::verify_all`] and weight by weight.
const HASHED_ON_OPEN: u64 = 256 << 20;
const LARGEST_PLAN: u64 = 256 << 20;

/// An opened, validated plan with its weights mapped into memory.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    plan: Plan,
    hash: String,
    weights: Bytes,
}

impl Bundle {
    /// Opens the bundle at `folder`: version, checksum, sizes of all files, hashes of all but very large ones, structure.
    ///
    /// A plan whose name a killed compilation left free is put back first.
    pub fn open(folder: &Path) -> Result<Self, PlanError> {
        let path = folder.join(PLAN);
        if let (false, Some(parent)) = (folder.exists(), folder.parent()) {
            restore_replaced(parent);
        }
        let text = read_plan_text(folder, &path)?;
        let plan = parse(folder, &path, &text)?;
        for (relative, hash) in &plan.files {
            check_path(relative)?;
            check_size(&folder.join(relative), hash)?;
        }
        for (relative, hash) in plan.files.iter().filter(|(_, hash)| hash.bytes <= HASHED_ON_OPEN) {
            check_hash(&folder.join(relative), hash)?;
        }
        validate(&plan)?;
        let path = folder.join(WEIGHTS);
        let weights = map(&path).map_err(PlanError::io(&path))?;
        Ok(Bundle {
            folder: folder.to_owned(),
            plan,
            hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
            weights,
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where the bundle is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// blake3 of `plan.json`, hex: names this plan, its weights and islands included.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Path of a file of the bundle.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.join(relative)
    }

    /// A constant as its kernel reads it: over the mapped file, or a copy where the file has another order. Its hash is checked when that did not happen on opening.
    pub fn weight(&self, id: WeightId) -> Result<HostTensor, PlanError> {
        let weight = &self.plan.weights[id.index()];
        let start = weight.offset as usize;
        let data = self.weights.slice(start..start + weight.bytes as usize);
        let is_checked = self.plan.files[WEIGHTS].bytes <= HASHED_ON_OPEN;
        if !is_checked && blake3::hash(&data).to_hex().as_str() != weight.hash {
            return Err(PlanError::Altered(self.folder.join(WEIGHTS)));
        }
        let stored = HostTensor::new(weight.dtype, stored_shape(weight), data).map_err(|source| PlanError::Weight {
            name: weight.name.clone(),
            source,
        })?;
        if weight.axes.is_empty() {
            return Ok(stored);
        }
        let turn = Transform::Permute(weight.axes.clone());
        Ok(Constant::from(stored).transformed(turn).materialize())
    }

    /// Hashes every file, however large.
    pub fn verify_all(&self) -> Result<(), PlanError> {
        for (relative, hash) in &self.plan.files {
            check_hash(&self.folder.join(relative), hash)?;
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        let plan = fs::metadata(self.folder.join(PLAN)).map_or(0, |metadata| metadata.len());
        plan + self.plan.files.values().map(|file| file.bytes).sum::<u64>()
    }
}

/// Dimensions in the order of the file; validation has seen that `axes` is an order.
fn stored_shape(weight: &Weight) -> Shape {
    let mut dims = weight.shape.to_vec();
    for (&axis, &dim) in weight.axes.iter().zip(weight.shape.iter()) {
        dims[axis] = dim;
    }
    dims.into()
}

fn read_plan_text(folder: &Path, path: &Path) -> Result<String, PlanError> {
    let metadata = match fs::metadata(path) {
        Err(error) if is_absent(&error) => return Err(PlanError::NotAPlan(folder.to_owned())),
        other => other.map_err(PlanError::io(path))?,
    };
    let malformed = |reason: &str| PlanError::Malformed {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if metadata.is_file() && metadata.len() > LARGEST_PLAN {
        return Err(malformed("it is too large"));
    }
    let bytes = fisec_files::read(path, LARGEST_PLAN).map_err(PlanError::io(path))?;
    String::from_utf8(bytes).map_err(|_| malformed("it is not text"))
}

/// The version comes first: a plan of another version may differ in everything else.
fn parse(folder: &Path, path: &Path, text: &str) -> Result<Plan, PlanError> {
    let malformed = |error: serde_json::Error| PlanError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let value: Value = serde_json::from_str(text).map_err(malformed)?;
    let intact = json::is_intact(text);
    match value.get("format").and_then(Value::as_u64) {
        Some(found) if found != u64::from(FORMAT) => {
            return Err(PlanError::Version {
                path: folder.to_owned(),
                found,
            });
        }
        Some(_) if intact => {}
        _ => return Err(PlanError::Altered(path.to_owned())),
    }
    serde_json::from_value(value).map_err(malformed)
}

fn check_size(path: &Path, hash: &FileHash) -> Result<(), PlanError> {
    let metadata = match fs::metadata(path) {
        Err(error) if is_absent(&error) => return Err(PlanError::Missing(path.to_owned())),
        other => other.map_err(PlanError::io(path))?,
    };
    if metadata.is_dir() {
        return Err(PlanError::Missing(path.to_owned()));
    }
    fisec_files::check_path(path).map_err(PlanError::io(path))?;
    if metadata.len() != hash.bytes {
        return Err(PlanError::WrongSize {
            path: path.to_owned(),
            expected: hash.bytes,
            found: metadata.len(),
        });
    }
    Ok(())
}

fn check_hash(path: &Path, hash: &FileHash) -> Result<(), PlanError> {
    let mut hasher = Hasher::new();
    fisec_files::open(path)
        .and_then(|file| io::copy(&mut io::BufReader::with_capacity(1 << 20, file), &mut hasher))
        .map_err(PlanError::io(path))?;
    if hasher.finalize().to_hex().as_str() != hash.blake3 {
        return Err(PlanError::Altered(path.to_owned()));
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn map(path: &Path) -> io::Result<Bytes> {
    let file = fisec_files::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a published bundle is replaced by rename, never written in place, so the mapped bytes do not change.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}
