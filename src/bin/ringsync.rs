//! The `ringsync` program: arguments → configuration → run → exit code.

fn main() {}
