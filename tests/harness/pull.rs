//! A frontend that asks the certificate API with curl.

use std::{process::Command, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{signpost::Daemon, stage::Stage};

/// A frontend, and the role that it asks.
pub struct Pull {
    role: Arc<Daemon>,
    token: String,
    ca_pem: String,
}

impl Pull {
    /// Starts the role, and adds a frontend with these arguments of `issuer frontend add NAME`.
    pub async fn start(stage: &Stage, scope: &[&str]) -> Result<Self> {
        let role = Arc::new(stage.signpost.start_certificates().await?);
        Self::add(stage, role, "first", scope).await
    }

    /// Another frontend that asks the same role.
    pub async fn beside(&self, stage: &Stage, scope: &[&str]) -> Result<Self> {
        Self::add(stage, Arc::clone(&self.role), "second", scope).await
    }

    async fn add(stage: &Stage, role: Arc<Daemon>, name: &str, scope: &[&str]) -> Result<Self> {
        let added = stage.json(&[&["frontend", "add", name], scope].concat()).await?;
        let text = |field: &str| -> Result<String> {
            Ok(added[field].as_str().with_context(|| format!("{added:#}"))?.to_owned())
        };
        Ok(Self { role, token: text("token")?, ca_pem: text("ca_certificate_pem")? })
    }

    /// Lets `frontend-agent` pull as this frontend, with no nginx.
    pub fn configure_agent(&self, stage: &mut Stage) -> Result<()> {
        let signpost = &mut stage.signpost;
        let ca = signpost.write("agent-ca.pem", &self.ca_pem)?;
        let token = signpost.write("agent-token", &self.token)?;
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let directory = signpost.directory().join("agent");
        signpost.set("agent.server", format!("https://127.0.0.1:{}", self.role.address.port()))?;
        for (key, path) in [("ca_file", ca), ("token_file", token), ("directory", directory)] {
            signpost.set(&format!("agent.{key}"), path.display().to_string())?;
        }
        for key in ["nginx.test", "nginx.reload"] {
            signpost.set(&format!("agent.{key}"), Vec::<toml::Value>::new())?;
        }
        Ok(())
    }

    /// The HTTP status of `/v1/certificates/PATH`.
    pub fn status(&self, path: &str) -> Result<u16> {
        let format = ["-o", "/dev/null", "-w", "%{http_code}"];
        Ok(self.curl(&format!("/v1/certificates/{path}"), &format)?.parse()?)
    }

    /// The JSON document `/v1/certificates/PATH`.
    pub fn document(&self, path: &str) -> Result<Value> {
        let answer = self.curl(&format!("/v1/certificates/{path}"), &["--fail"])?;
        serde_json::from_str(&answer).context(answer)
    }

    /// The listing as it came.
    pub fn listing(&self) -> Result<String> {
        self.curl("/v1/certificates", &["--fail"])
    }

    /// The items of the listing, in its order; asked for in pages of one.
    pub fn items(&self) -> Result<Vec<Value>> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.curl(&format!("/v1/certificates?limit=1{after}"), &["--fail"])?;
            let page: Value = serde_json::from_str(&page).context(page)?;
            let found = page["items"].as_array().context("no items")?;
            ensure!(found.len() <= 1, "more than was asked for: {page:#}");
            items.extend(found.iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(items),
            }
        }
    }

    /// The serial number in a PEM file `/v1/certificates/PATH`, upper case hex, as `openssl` reads it.
    pub fn serial_in(&self, path: &str) -> Result<String> {
        let pem = self.curl(&format!("/v1/certificates/{path}"), &["--fail"])?;
        let leaf = openssl::x509::X509::from_pem(pem.as_bytes()).context(pem)?;
        Ok(leaf.serial_number().to_bn()?.to_hex_str()?.to_string())
    }

    fn curl(&self, path: &str, more: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--insecure", "--max-time", "10"]).args(more);
        command.arg("--header").arg(format!("Authorization: Bearer {}", self.token));
        let output = command.arg(format!("https://{}{path}", self.role.address)).output();
        let output = output.context("curl isn't there: apt-get install curl")?;
        ensure!(output.status.success(), "curl {path}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
