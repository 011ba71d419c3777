//! Mails: what they say, when they come, and how they get there.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{
    deadline::until,
    mail_server::{MailServer, ReceivedMail, Security},
};
use shared::domain::{EventKind, FailureClass};

use crate::{LIMIT, Scene, event, failed};

fn use_mail(scene: &mut Scene, server: &MailServer, user: &str) -> Result<()> {
    scene.signpost.set("notify.smtp_url", server.url(user))?;
    scene.signpost.set("notify.smtp_roots_file", server.root_file().display().to_string())?;
    scene.signpost.set("notify.from", "Signpost <signpost@hoster.example>")?;
    scene.signpost.set("notify.to", vec!["Night Shift <night@hoster.example>"])
}

async fn accepted(server: &MailServer, count: usize) -> Result<Vec<ReceivedMail>> {
    until(&format!("{count} mails"), LIMIT, || async {
        let mails: Vec<_> = server.mails().into_iter().filter(|mail| mail.accepted).collect();
        (mails.len() >= count).then_some(mails)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_sums_up_and_what_is_critical_does_not_wait_for_it() -> Result<()> {
    let server = MailServer::start(Security::None)?;
    let mut scene = Scene::set_up().await?;
    use_mail(&mut scene, &server, "")?;
    scene.signpost.set("notify.digest", "1h")?;
    let node = scene.start().await?;
    for number in 0..25 {
        scene.append(&failed(&format!("n{number}.example"), FailureClass::Caa, 1)?).await?;
    }
    scene.append(&failed("dns.example", FailureClass::Dns, 1)?).await?;
    scene.append(&event(EventKind::Renewed, "fine.example")?).await?;
    let mail = accepted(&server, 1).await?.remove(0);
    ensure!(mail.from.contains("<signpost@hoster.example>"), "{}", mail.from);
    ensure!(mail.to.len() == 1 && mail.to[0].contains("<night@hoster.example>"), "{:?}", mail.to);
    ensure!(mail.head("MIME-Version") == Some("1.0"), "{}", mail.data);
    ensure!(mail.head("Subject") == Some("[signpost] 26 failing"), "{}", mail.data);
    for expected in [
        "* failed (caa): 25 names, since ",
        "    What to do: Allow the CA in the CAA record.\n",
        "      and 5 more\n",
        "* failed (dns): 1 name, since ",
        "      dns.example\n",
        "STILL FAILING: 26 sites\n",
        "Besides: 1 renewed.",
    ] {
        ensure!(mail.data.contains(expected), "{expected:?} in\n{}", mail.data);
    }
    // Within the hour there is no other mail, unless it is critical; then it says the rest as well.
    scene.append(&failed("n1.example", FailureClass::Caa, 2)?).await?;
    scene.append(&event(EventKind::Recovered, "n2.example")?).await?;
    scene.append(&event(EventKind::Recovered, "fine.example")?).await?;
    let since = Instant::now();
    scene.append(&event(EventKind::ExpiryCritical, "n3.example")?).await?;
    let mail = accepted(&server, 2).await?.remove(1);
    ensure!(mail.at > since, "the critical one is the second mail");
    ensure!(mail.head("Subject") == Some("[signpost] 1 critical, 1 over"), "{}", mail.data);
    ensure!(mail.data.contains("CRITICAL\n\n* expiry-critical: 1 name"), "{}", mail.data);
    ensure!(mail.data.contains("* recovered: 1 name"), "{}", mail.data);
    ensure!(mail.data.contains("STILL FAILING: 25 sites"), "{}", mail.data);
    ensure!(!mail.data.contains("* failed"), "a repetition is no news:\n{}", mail.data);
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_mail_comes_again_unchanged_also_after_a_restart() -> Result<()> {
    let server = MailServer::start(Security::None)?;
    let mut scene = Scene::set_up().await?;
    use_mail(&mut scene, &server, "")?;
    scene.signpost.set("notify.digest", "1s")?;
    server.refuse_next(&["451 later", "451 later"]);
    let node = scene.start().await?;
    scene.append(&failed("a.example", FailureClass::Caa, 1)?).await?;
    until("a refusal", LIMIT, || async { (!server.mails().is_empty()).then_some(()) }).await?;
    node.kill().await;
    scene.append(&failed("b.example", FailureClass::Caa, 1)?).await?;
    let node = scene.start().await?;
    let mails = accepted(&server, 2).await?;
    let first = &server.mails()[0];
    let id = first.head("Message-ID").context("a mail has an id")?;
    ensure!(mails[0].head("Message-ID") == Some(id), "{}", mails[0].data);
    ensure!(mails[0].data == first.data, "{}\n{}", mails[0].data, first.data);
    ensure!(mails[1].head("Message-ID") != Some(id) && mails[1].data.contains("b.example"));
    ensure!(!mails[0].data.contains("b.example"));
    // Nothing new, no mail: the next one is about what comes next.
    scene.append(&event(EventKind::Renewed, "fine.example")?).await?;
    scene.append(&failed("c.example", FailureClass::Caa, 1)?).await?;
    let mails = accepted(&server, 3).await?;
    ensure!(mails.len() == 3 && mails[2].data.contains("c.example"));
    ensure!(mails[2].data.contains("* failed (caa): 1 name,"), "{}", mails[2].data);
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_or_one_mail_that_is_refused_keeps_nothing_from_the_others() -> Result<()> {
    let server = MailServer::start(Security::None)?;
    server.refuse_reader("left@", "550 5.1.1 no such user");
    let mut scene = Scene::set_up().await?;
    use_mail(&mut scene, &server, "")?;
    scene.signpost.set("notify.to", vec!["left@hoster.example", "night@b\u{fc}cher.example"])?;
    scene.signpost.set("notify.digest", "1s")?;
    let node = scene.start().await?;
    scene.append(&failed("a.example", FailureClass::Caa, 1)?).await?;
    let mails = accepted(&server, 1).await?;
    ensure!(mails[0].to[0].contains("night@xn--bcher-kva.example"), "{:?}", mails[0].to);
    let given_up = until("it is told", LIMIT, || async {
        let page =
            scene.signpost.issuer(&["--json", "events", "--kind", "notification-refused"]).await.ok()?;
        page.stdout.contains("left@hoster.example").then_some(page.stdout)
    });
    ensure!(given_up.await?.contains("no such user"), "in the server's words");
    // A mail that is refused is given up, and the next one comes.
    server.refuse_next(&["554 5.7.1 this is spam"]);
    scene.append(&failed("b.example", FailureClass::Caa, 1)?).await?;
    until("a refusal", LIMIT, || async { server.mails().iter().any(|mail| !mail.accepted).then_some(()) })
        .await?;
    scene.append(&event(EventKind::ExpiryCritical, "c.example")?).await?;
    let mails = accepted(&server, 2).await?;
    ensure!(
        mails[1].data.contains("c.example") && !mails[1].data.contains("b.example\n\n"),
        "{}",
        mails[1].data
    );
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_goes_over_tls_alone() -> Result<()> {
    for security in [Security::StartTls, Security::Tls] {
        let server = MailServer::start(security)?;
        let mut scene = Scene::set_up().await?;
        use_mail(&mut scene, &server, "signpost%40hoster.example")?;
        let password = scene.signpost.write("smtp-password", "hunter2\n")?;
        scene.signpost.set("notify.smtp_password_file", password.display().to_string())?;
        let node = scene.start().await?;
        scene.append(&event(EventKind::Expired, "shop.example")?).await?;
        let mail = accepted(&server, 1).await?.remove(0);
        ensure!(mail.encrypted, "{security:?}");
        let login = mail.login.context("it logged in")?;
        ensure!(STANDARD.decode(login)? == b"\0signpost@hoster.example\0hunter2", "{security:?}");
        node.stop().await?;
    }
    Ok(())
}
