//! Showing the web servers what is live, and what came of it.

use crate::{
    https::Moment,
    index::names_in_service,
    pass::Pass,
    report::{Failed, Published},
    served::Target,
    servers::{Applied, Shown, Sifted, View},
    status::RefusedItem,
    wire::ItemId,
};
use shared::{
    domain::{StagedTlsPolicy, TlsPolicy},
    error::chain,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    thread,
};

impl Pass<'_> {
    /// Shows every web server what is live. That one may not know it yet is on disk before its files are, so that a crash in
    /// between loses no reload. Answers whether one of them refused all of it.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn tell(&mut self, servers: &mut [Shown]) -> io::Result<bool> {
        let (report, doubt) = (&mut self.report, &self.status.doubt);
        let mut names = names_in_service(&self.index, |name, older, younger| {
            // That is told of already.
            if doubt.is_kept(older) || doubt.is_kept(younger) {
                return;
            }
            let reason = format!("{name} is also a name of {younger}, whose certificate is younger");
            report.failed.push(Failed { id: Some(older.clone()), names: vec![name.to_owned()], reason });
        });
        let at = Moment::of(&self.status);
        let tls = self.status.tls.clone();
        let (mut refused, mut problems, mut items) = (false, BTreeMap::new(), Vec::new());
        let mut left_out: BTreeSet<Arc<str>> = BTreeSet::new();
        self.status.spoken.retain(|server, _| servers.iter().any(|shown| shown.name() == server));
        let tls = tls.as_ref();
        let view = View {
            directory: self.directory,
            index: &self.index,
            names: &names,
            former: None,
            owed: false,
            at,
            tls,
        };
        let mut views = Vec::new();
        for shown in servers.iter_mut() {
            let server = shown.name();
            let owed = self.status.owed.contains(server);
            shown.recall(&self.status.refused);
            let view = View { owed, ..view };
            if !owed && shown.differs(&view) {
                self.status.owed.insert(server.to_owned());
                self.status.store(self.directory)?;
            }
            views.push(view);
        }
        for (server, sifted) in show_all(servers, &views, &self.status.spoken) {
            match sifted.applied {
                Ok(Applied::Later(left)) => {
                    self.report.again_in = Some(self.report.again_in.map_or(left, |before| before.min(left)));
                }
                Ok(applied) => {
                    self.report.reloaded |= applied == Applied::Changed { reloaded: true };
                    self.status.owed.remove(server);
                    if let Some(policy) = sifted.policy {
                        self.status.spoken.insert(server.to_owned(), policy);
                    }
                }
                Err(error) => {
                    refused = true;
                    self.report.server_errors.push(chain(&error));
                    problems.insert(server.to_owned(), chain(&error));
                }
            }
            if let Some(reason) = sifted.policy_refused {
                let reason =
                    format!("{server} {}, and speaks the one before: {reason}", StagedTlsPolicy::REFUSED);
                self.report.server_errors.push(reason.clone());
                problems.insert(format!("{server} tls-policy"), reason);
            }
            for (name, id, reason) in sifted.refused {
                left_out.insert(Arc::clone(&name));
                items.push(RefusedItem::new(server, id, vec![name.to_string()], reason));
            }
            for (id, reason) in sifted.not_taken {
                let names =
                    self.index.get(&id).map(|live| live.names.iter().map(ToString::to_string).collect());
                items.push(RefusedItem::new(
                    server,
                    id,
                    names.unwrap_or_default(),
                    format!("{server}: {reason}"),
                ));
            }
        }
        names.retain(|name, _| !left_out.contains(name));
        let target =
            |published: &Published| Target::of(&published.id, self.index.get(&published.id)?, &names);
        self.report.targets = self.report.published.iter().filter_map(target).collect();
        let failed = items.iter().map(RefusedItem::to_failed);
        self.report.failed.extend(failed);
        self.status.note_refusals(items, problems);
        Ok(refused)
    }

    /// Versions that a web server's files still name: they stay until it has let go of them.
    pub(crate) fn named_versions(&self, servers: &[Shown]) -> BTreeSet<PathBuf> {
        servers.iter().flat_map(|shown| shown.names_versions(self.directory)).collect()
    }

    /// Whether a web server's files still name a version of an item.
    pub(crate) fn is_named(&self, id: &ItemId, named: &BTreeSet<PathBuf>) -> bool {
        let item = self.directory.item(id);
        named.iter().any(|version| version.parent() == Some(item.as_path()))
    }
}

/// Shows every web server its view, all at the same time: one whose commands take their time keeps no other one waiting.
pub(crate) fn show_all(
    servers: &mut [Shown],
    views: &[View<'_>],
    spoken: &BTreeMap<String, TlsPolicy>,
) -> Vec<(&'static str, Sifted)> {
    thread::scope(|scope| {
        let show = |(shown, view): (&mut Shown, &View<'_>)| {
            (shown.name(), shown.show(view, spoken.get(shown.name())))
        };
        let all = servers.iter_mut().zip(views);
        let running: Vec<_> = all.map(|one| scope.spawn(move || show(one))).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
