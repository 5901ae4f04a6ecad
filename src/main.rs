//! The command `insieme-backend`. What it can do is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    insieme_backend::cli::main()
}
