//! The one integration hub: every test of the whole lives in a module of it.
//!
//! Tests that need root, a tool or a filesystem that is missing say so by name (`SKIPPED …` on stderr) and pass. Variables, all optional:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RINGSYNC_SEED` | first seed of each random test; a failing test prints its own | new each time |
//! | `RINGSYNC_SEEDS` | seeds of each test in `random` | 1 |
//! | `RINGSYNC_OPS` | operations of one random test and seed; 14000 make over 200,000 in `random` | 2500 |
//! | `RINGSYNC_DEADLINE_S` | seconds after which a wait is a failure | 120 |
//! | `RINGSYNC_REAL_MB` | mebibytes that tests in `real` take of each real tree | 60 |
//! | `RINGSYNC_TMP` | where trees are made | `/dev/shm` |
//! | `RINGSYNC_BIN` | another build of the program to be tested | the one of this build |

mod apply;
mod cli;
mod compare;
mod confine;
mod content;
mod filter;
mod link;
mod memsource;
mod memtarget;
mod mirror;
mod mounts;
mod ops;
mod place;
mod program;
mod random;
mod receive;
mod refuse;
mod sim;
mod tidy;
mod twin;
mod real;
mod refuse;
mod rng;
mod unfriendly;
mod unprivileged;
mod vectors;
mod wire_fuzz;
mod fixture;
