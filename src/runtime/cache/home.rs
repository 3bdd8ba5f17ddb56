//! Where remembered images live unless the user says otherwise.

use std::env;
use std::path::PathBuf;

/// `$FISEC_HOME`, else `fisec` in the platform's folder for application data.
pub fn default_home() -> PathBuf {
    if let Some(home) = set("FISEC_HOME") {
        return home;
    }
    let data = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))
    };
    data.map_or_else(|| env::temp_dir().join("fisec"), |data| data.join("fisec"))
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
