//! Writing a bundle: one tensor at a time, published in one step.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use blake3::Hasher;
use bytes::Bytes;
use fisec_tensor::{DType, HostTensor, Shape};

use crate::bundle::{PLAN, WEIGHTS};
use crate::validate::{check_path, validate};
use crate::weights_file::WeightsFile;
use crate::{
    FORMAT, FileHash, Plan, PlanError, Scratch, ScratchFolder, Weight, WeightId, json, remove_leftovers,
    restore_replaced,
};

/// Alignment of constants in `weights.bin`, bytes.
pub const ALIGNMENT: u64 = 64;

/// Writes a bundle. Nothing is visible under the final name before [`BundleWriter::finish`]; dropped before that, it
/// leaves nothing.
pub struct BundleWriter {
    target: PathBuf,
    leftovers: Vec<Scratch>,
    folder: ScratchFolder,
    data: WeightsFile,
    placed: HashMap<blake3::Hash, u64>,
    weights: Vec<Weight>,
    /// weights of one name and place: more than one when they have another shape or order
    known: HashMap<(String, u64), Vec<u32>>,
    files: BTreeMap<String, FileHash>,
}

/// Where a constant stands, in the terms of ONNX external data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// file, relative to the bundle
    pub file: &'static str,
    /// first byte
    pub offset: u64,
    /// number of bytes
    pub length: u64,
    /// blake3 of the bytes
    hash: blake3::Hash,
}

impl BundleWriter {
    /// Begins a bundle that will stand at `target`, or where `target` links to. Fails when something other than a plan is
    /// there. Scratch folders beside it whose processes have ended are removed.
    pub fn create(target: &Path) -> Result<Self, PlanError> {
        let target = &linked(target);
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        restore_replaced(parent);
        if is_occupied(target) {
            return Err(PlanError::Occupied(target.to_owned()));
        }
        // A folder that cannot be listed, or is not there yet, has nothing to remove.
        let leftovers = remove_leftovers(parent).unwrap_or_default();
        let folder = ScratchFolder::beside(target).map_err(PlanError::io(target))?;
        let path = folder.path().join(WEIGHTS);
        let data = WeightsFile::create(&path).map_err(PlanError::io(&path))?;
        Ok(BundleWriter {
            target: target.to_owned(),
            leftovers,
            folder,
            data,
            placed: HashMap::new(),
            weights: Vec::new(),
            known: HashMap::new(),
            files: BTreeMap::new(),
        })
    }

    /// Scratch folders of ended processes that were removed beside the target.
    pub fn removed_leftovers(&self) -> &[Scratch] {
        &self.leftovers
    }

    /// The folder that is being filled; files placed here by others are registered with [`BundleWriter::adopt_file`].
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a constant in kernel layout. Equal bytes are stored once; an equal weight keeps its first id.
    pub fn add_weight(&mut self, name: &str, tensor: &HostTensor) -> Result<WeightId, PlanError> {
        let placement = self.place_external(name, tensor)?;
        Ok(self.add_placed(name, tensor.dtype(), tensor.shape(), &[], &placement))
    }

    /// Makes a weight of bytes that stand in the bundle already. `axes` says which dimension of the stored tensor each
    /// dimension of `shape` is; empty when they are the same.
    pub fn add_placed(&mut self, name: &str, dtype: DType, shape: &Shape, axes: &[usize], at: &Placement) -> WeightId {
        let weight = Weight {
            name: name.to_owned(),
            dtype,
            shape: shape.clone(),
            axes: axes.to_vec(),
            offset: at.offset,
            bytes: at.length,
            hash: at.hash.to_hex().to_string(),
        };
        let known = self.known.entry((name.to_owned(), at.offset)).or_default();
        if let Some(&index) = known.iter().find(|&&index| self.weights[index as usize] == weight) {
            return WeightId(index);
        }
        let index = self.weights.len() as u32;
        known.push(index);
        self.weights.push(weight);
        WeightId(index)
    }

    /// Stores an island's initializer. Equal bytes are stored once, weights included.
    pub fn place_external(&mut self, _name: &str, tensor: &HostTensor) -> Result<Placement, PlanError> {
        let (offset, hash) = self.place(tensor.data())?;
        Ok(Placement {
            file: WEIGHTS,
            offset,
            length: tensor.data().len() as u64,
            hash,
        })
    }

    /// Adds a file. `relative` uses `/` and stays inside the bundle.
    ///
    /// # Errors
    /// Fails when a file of this name with other bytes is in the bundle already, and when it cannot be written.
    pub fn add_file(&mut self, relative: &str, bytes: &[u8]) -> Result<(), PlanError> {
        let hash = json::file_hash(bytes);
        let path = self.path_for(relative)?;
        self.register(relative, hash)?;
        fs::write(&path, bytes).map_err(PlanError::io(&path))
    }

    /// Copies a file, streaming.
    pub fn copy_file(&mut self, relative: &str, from: &Path) -> Result<(), PlanError> {
        let path = self.path_for(relative)?;
        let mut source = fisec_files::open(from).map_err(PlanError::io(from))?;
        let mut copy = File::create(&path).map_err(PlanError::io(&path))?;
        let hash = copy_hashed(&mut source, &mut copy).map_err(PlanError::io(&path))?;
        self.register(relative, hash)
    }

    /// Registers a file that already stands in [`BundleWriter::folder`].
    pub fn adopt_file(&mut self, relative: &str) -> Result<(), PlanError> {
        let path = self.path_for(relative)?;
        let mut file = fisec_files::open(&path).map_err(PlanError::io(&path))?;
        let hash = copy_hashed(&mut file, &mut io::sink()).map_err(PlanError::io(&path))?;
        self.register(relative, hash)
    }

    /// Whether a file of this name is in the bundle already.
    pub fn has_file(&self, relative: &str) -> bool {
        self.files.contains_key(relative)
    }

    /// Lists a file. One name stands for one content, so that no reader of the first file finds the second.
    fn register(&mut self, relative: &str, hash: FileHash) -> Result<(), PlanError> {
        match self.files.insert(relative.to_owned(), hash.clone()) {
            Some(known) if known != hash => Err(PlanError::invalid(
                "files",
                format!("two different files are called {relative}"),
            )),
            _ => Ok(()),
        }
    }

    /// Constants so far.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Completes the plan's `format`, `weights` and `files`, checks it, writes `plan.json`, writes all files through to the
    /// disk and publishes the bundle. Returns the completed plan.
    pub fn finish(mut self, mut plan: Plan) -> Result<Plan, PlanError> {
        let path = self.folder.path().join(WEIGHTS);
        let hash = self.data.finish().map_err(PlanError::io(&path))?;
        self.files.insert(WEIGHTS.to_owned(), hash);
        plan.format = FORMAT;
        plan.weights = self.weights;
        plan.files = self.files;
        validate(&plan)?;
        let path = self.folder.path().join(PLAN);
        fs::write(&path, json::seal(&plan)).map_err(PlanError::io(&path))?;
        self.folder.sync().map_err(PlanError::io(self.folder.path()))?;
        self.folder.publish(&self.target).map_err(PlanError::io(&self.target))?;
        Ok(plan)
    }

    fn place(&mut self, bytes: &Bytes) -> Result<(u64, blake3::Hash), PlanError> {
        let hash = blake3::hash(bytes);
        if let Some(offset) = self.placed.get(&hash) {
            return Ok((*offset, hash));
        }
        let offset = self.data.length().next_multiple_of(ALIGNMENT);
        let padding = (offset - self.data.length()) as usize;
        let padding = Bytes::from_static(&[0u8; ALIGNMENT as usize]).slice(..padding);
        [padding, bytes.clone()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .try_for_each(|part| self.data.append(part))
            .map_err(PlanError::io(&self.folder.path().join(WEIGHTS)))?;
        self.placed.insert(hash, offset);
        Ok((offset, hash))
    }

    fn path_for(&self, relative: &str) -> Result<PathBuf, PlanError> {
        check_path(relative)?;
        let path = self.folder.path().join(relative);
        let parent = path.parent().expect("inside the bundle");
        fs::create_dir_all(parent).map_err(PlanError::io(parent))?;
        Ok(path)
    }
}

/// Where a link leads; other paths as they are.
fn linked(target: &Path) -> PathBuf {
    match target.is_symlink() {
        true => fs::canonicalize(target).unwrap_or_else(|_| target.to_owned()),
        false => target.to_owned(),
    }
}

/// Something is there that replacing would destroy.
fn is_occupied(target: &Path) -> bool {
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    target.exists() && !target.join(PLAN).is_file() && !is_empty()
}

fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> io::Result<FileHash> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    Ok(FileHash {
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}
