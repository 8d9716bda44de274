//! Writes the definitions and the shapes of their specs to `crds/generated/`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in la_crds::definitions::generated_files()? {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
