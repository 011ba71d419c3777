//! Apache: a line for each certificate, a graceful restart when one changed.

use std::process::Command;

use anyhow::Result;

use super::Scene;

const MODULES: [&str; 4] = ["mpm_event", "authz_core", "ssl", "macro"];

#[tokio::test(flavor = "multi_thread")]
async fn is_restarted_gracefully() -> Result<()> {
    let mut scene = Scene::new(&["apache"]).await?;
    let mut text: String = MODULES
        .iter()
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
        .collect();
    text.push_str(&format!(
        "DefaultRuntimeDir {0}\nPidFile {0}/apache.pid\nErrorLog {0}/apache-error.log\nMutex file:{0} default\n\
         ServerName localhost\nListen {1}\nUser www-data\nGroup www-data\n\
         <Macro SignpostSite $name $aliases $directory>\n<VirtualHost *:*>\nServerName $name\nServerAlias $aliases\n\
         SSLEngine on\nSSLCertificateFile $directory/ecdsa-fullchain.pem\nSSLCertificateKeyFile $directory/ecdsa-privkey.pem\n\
         SSLCertificateFile $directory/rsa-fullchain.pem\nSSLCertificateKeyFile $directory/rsa-privkey.pem\n\
         </VirtualHost>\n</Macro>\nInclude {2}\n",
        scene.path("").display(),
        scene.address,
        scene.of_agent("apache/sites.conf").display(),
    ));
    let file = scene.write("apache.conf", &text)?.display().to_string();
    let words = |more: &[&str]| -> Vec<String> {
        ["/usr/sbin/apache2", "-f", &file].iter().chain(more).map(ToString::to_string).collect()
    };
    scene.set_command("apache.test", &words(&["-t"]))?;
    scene.set("apache.min_reload_seconds", 1)?;
    // It is not running yet.
    scene.set_command("apache.reload", &[])?;
    scene.sync().await?;
    let mut command = Command::new("/usr/sbin/apache2");
    command.args(["-f", &file, "-DFOREGROUND"]);
    let apache = scene.start_server(command, "apache2-bin").await?;
    scene.set_command("apache.reload", &words(&["-k", "graceful"]))?;
    scene.start_agent()?;
    scene.tell_the_story(true).await?;
    apache.assert_running()
}
