//! The command `insieme-backend`. What it can do is in `cli`.

use std::process::ExitCode;

/// An event is a good many small allocations that live for milliseconds and end on another thread than they
/// began on; the system's allocator spent a quarter of a frontend's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    insieme_backend::cli::main()
}
