//! rsync's include and exclude rules.
