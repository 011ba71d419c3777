//! The operator's command line.

use std::process::ExitCode;

/// Wipes what is freed, wherever it was: a private key passes through buffers of libraries, and through those that grow.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    issuer::cli::run().into()
}
