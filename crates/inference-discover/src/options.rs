//! How far discovery looks.

/// How far discovery looks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoverOptions {
    /// Folders below the root that are entered, in levels; 0 looks at the
    /// root alone.
    pub max_depth: usize,
    /// Whether folders whose names begin with a dot are entered.
    pub hidden: bool,
}

impl Default for DiscoverOptions {
    fn default() -> Self {
        Self { max_depth: 8, hidden: false }
    }
}

impl DiscoverOptions {
    /// Eight levels, no hidden folders.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of levels.
    #[must_use]
    pub fn with_max_depth(mut self, levels: usize) -> Self {
        self.max_depth = levels;
        self
    }

    /// Sets whether hidden folders are entered.
    #[must_use]
    pub fn with_hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }
}
