//! A mounted `ConfigMap` or Secret.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// `name` → `..data/name`, `..data` → a folder of this moment.
#[derive(Debug)]
pub(super) struct Mount {
    folder: tempfile::TempDir,
    name: &'static str,
    versions: usize,
}

impl Mount {
    pub(super) fn new(name: &'static str, content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
        let mut mount = Self {
            folder,
            name,
            versions: 0,
        };
        mount.swap(content);
        mount
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    /// What the kubelet does: a new folder, a new link beside the old one, one rename, and the old
    /// folder goes.
    pub(super) fn swap(&mut self, content: &str) {
        let root = self.folder.path();
        let (old, new) = (format!("..{}", self.versions), format!("..{}", self.versions + 1));
        self.versions += 1;
        std::fs::create_dir(root.join(&new)).unwrap();
        std::fs::write(root.join(&new).join(self.name), content).unwrap();
        symlink(&new, root.join("..data_tmp")).unwrap();
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if self.versions > 1 {
            std::fs::remove_dir_all(root.join(old)).unwrap();
        }
    }
}
