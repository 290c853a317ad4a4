//! The typed methods, one for each command that they send.

use super::answers::{self, Domain};
use super::{Client, ClientError, Device, FileDebug, FileInfo, Host, KeyPage, ListedFile, Opened};
use crate::args::Args;
use crate::request::RequestBuilder;

/// What [`Client::create_open`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CreateOpen<'a> {
    /// The domain.
    pub domain: &'a [u8],
    /// The key; the one given at the close will count.
    pub key: &'a [u8],
    /// The class; without one the default class. (`default` by name is refused by trackers.)
    pub class: Option<&'a [u8]>,
    /// The fid wanted, if it matters.
    pub fid: Option<u64>,
    /// How much room the device must have.
    pub size: Option<u64>,
    /// Whether several destinations are wanted.
    pub multi_dest: bool,
}

/// What [`Client::create_close`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CreateClose<'a> {
    /// The domain; this one counts, not the one at the opening.
    pub domain: &'a [u8],
    /// The key; an empty one gives the upload up.
    pub key: &'a [u8],
    /// The fid that was opened.
    pub fid: u64,
    /// The device on which the bytes are.
    pub devid: u32,
    /// The URL, exactly as it was given.
    pub path: &'a str,
    /// The size, which the tracker compares with the storage node's unless it is 0.
    pub size: Option<u64>,
    /// `MD5:<hex>` or `SHA-1:<hex>`
    pub checksum: Option<&'a str>,
    /// Whether the tracker shall compare the checksum with the bytes stored.
    pub checksumverify: bool,
}

/// What [`Client::get_paths`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GetPaths<'a> {
    /// The domain.
    pub domain: &'a [u8],
    /// The key.
    pub key: &'a [u8],
    /// Whether the first path need not be tried by the tracker.
    pub noverify: bool,
    /// How many paths at most; trackers take 2 as the least.
    pub pathcount: Option<u32>,
    /// `alt` for the alternative addresses.
    pub zone: Option<&'a str>,
}

/// What [`Client::list_keys`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListKeys<'a> {
    /// The domain.
    pub domain: &'a [u8],
    /// What the keys begin with.
    pub prefix: &'a [u8],
    /// The last key known; must begin with the prefix too. A tracker takes the prefix for a
    /// pattern when it checks this, and refuses some that hold signs like `(`.
    pub after: &'a [u8],
    /// How many keys at most; without it, and at the most, 1,000.
    pub limit: Option<u32>,
}

/// A class as [`Client::create_class`] and [`Client::update_class`] write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassSettings<'a> {
    /// The domain.
    pub domain: &'a [u8],
    /// The class.
    pub class: &'a [u8],
    /// On how many devices its files should be; at least 1.
    pub mindevcount: u32,
    /// Where, such as `MultipleHosts()`.
    pub replpolicy: Option<&'a str>,
    /// `MD5`, `SHA-1` or `NONE`
    pub hashtype: Option<&'a str>,
}

impl Client {
    /// Does nothing, successfully.
    pub async fn noop(&mut self) -> Result<(), ClientError> {
        self.done(RequestBuilder::new("noop")).await
    }

    /// Reserves a fid and learns where to put its bytes.
    pub async fn create_open(&mut self, open: &CreateOpen<'_>) -> Result<Opened, ClientError> {
        let request = in_domain("create_open", open.domain)
            .arg("key", open.key)
            .opt("class", open.class)
            .opt("fid", open.fid.map(|fid| fid.to_string()))
            .opt("size", open.size.map(|size| size.to_string()))
            .opt("multi_dest", open.multi_dest.then_some("1"));
        self.ask(request, Opened::read).await
    }

    /// Makes the key name what was uploaded, in place of what it named before. With an empty key,
    /// gives the upload up.
    pub async fn create_close(&mut self, close: &CreateClose<'_>) -> Result<(), ClientError> {
        let request = in_domain("create_close", close.domain)
            .arg("key", close.key)
            .number("fid", close.fid)
            .number("devid", close.devid.into())
            .arg("path", close.path)
            .opt("size", close.size.map(|size| size.to_string()))
            .opt("checksum", close.checksum)
            .opt("checksumverify", close.checksumverify.then_some("1"));
        self.done(request).await
    }

    /// Where a file can be read.
    pub async fn get_paths(&mut self, wanted: &GetPaths<'_>) -> Result<Vec<String>, ClientError> {
        let request = of_key("get_paths", wanted.domain, wanted.key)
            .number("noverify", wanted.noverify.into())
            .opt("pathcount", wanted.pathcount.map(|count| count.to_string()))
            .opt("zone", wanted.zone);
        self.ask(request, answers::paths).await
    }

    /// What a key names. A tracker may ask a database that lags.
    pub async fn file_info(&mut self, domain: &[u8], key: &[u8]) -> Result<FileInfo, ClientError> {
        self.ask(
            of_key("file_info", domain, key).number("devices", 1),
            FileInfo::read,
        )
        .await
    }

    /// All that is known of what a key names. Always asks the database that does not lag.
    pub async fn file_debug_by_key(
        &mut self,
        domain: &[u8],
        key: &[u8],
    ) -> Result<FileDebug, ClientError> {
        self.ask(of_key("file_debug", domain, key), FileDebug::read)
            .await
    }

    /// All that is known of a fid. Of one that never was there is just nothing known.
    pub async fn file_debug_by_fid(&mut self, fid: u64) -> Result<FileDebug, ClientError> {
        self.ask(
            RequestBuilder::new("file_debug").number("fid", fid),
            FileDebug::read,
        )
        .await
    }

    /// Removes a key.
    pub async fn delete(&mut self, domain: &[u8], key: &[u8]) -> Result<(), ClientError> {
        self.done(of_key("delete", domain, key)).await
    }

    /// Gives a file another key, which must not name a file yet.
    pub async fn rename(
        &mut self,
        domain: &[u8],
        from_key: &[u8],
        to_key: &[u8],
    ) -> Result<(), ClientError> {
        self.done(
            in_domain("rename", domain)
                .arg("from_key", from_key)
                .arg("to_key", to_key),
        )
        .await
    }

    /// Puts a file into another class.
    pub async fn updateclass(
        &mut self,
        domain: &[u8],
        key: &[u8],
        class: &[u8],
    ) -> Result<(), ClientError> {
        self.done(of_key("updateclass", domain, key).arg("class", class))
            .await
    }

    /// A page of keys, empty if there are none (where the tracker says `none_match`).
    pub async fn list_keys(&mut self, wanted: &ListKeys<'_>) -> Result<KeyPage, ClientError> {
        let request = in_domain("list_keys", wanted.domain)
            .arg("prefix", wanted.prefix)
            .arg("after", wanted.after)
            .opt("limit", wanted.limit.map(|limit| limit.to_string()));
        match self.ask(request, KeyPage::read).await {
            Err(err) if err.is_code("none_match") => Ok(KeyPage::default()),
            page => page,
        }
    }

    /// The living files with the next higher fids after `from`, of all domains; at most `count`,
    /// and at most 500.
    pub async fn list_fids(
        &mut self,
        from: u64,
        count: u32,
    ) -> Result<Vec<ListedFile>, ClientError> {
        // What the tracker calls `to` is a number of rows.
        let request = RequestBuilder::new("list_fids")
            .number("from", from)
            .number("to", count.into());
        self.ask(request, ListedFile::read_all).await
    }

    /// All domains with their classes.
    pub async fn get_domains(&mut self) -> Result<Vec<Domain>, ClientError> {
        self.ask(RequestBuilder::new("get_domains"), Domain::read_all)
            .await
    }

    /// All hosts.
    pub async fn get_hosts(&mut self) -> Result<Vec<Host>, ClientError> {
        self.ask(RequestBuilder::new("get_hosts"), Host::read_all)
            .await
    }

    /// All devices.
    pub async fn get_devices(&mut self) -> Result<Vec<Device>, ClientError> {
        self.ask(RequestBuilder::new("get_devices"), Device::read_all)
            .await
    }

    /// Makes a domain.
    pub async fn create_domain(&mut self, domain: &[u8]) -> Result<(), ClientError> {
        self.done(in_domain("create_domain", domain)).await
    }

    /// Removes a domain that has neither files nor classes.
    pub async fn delete_domain(&mut self, domain: &[u8]) -> Result<(), ClientError> {
        self.done(in_domain("delete_domain", domain)).await
    }

    /// Makes a class.
    pub async fn create_class(&mut self, class: &ClassSettings<'_>) -> Result<(), ClientError> {
        self.done(class.request("create_class")).await
    }

    /// Changes a class.
    pub async fn update_class(&mut self, class: &ClassSettings<'_>) -> Result<(), ClientError> {
        self.done(class.request("update_class")).await
    }

    /// Removes a class that has no files.
    pub async fn delete_class(&mut self, domain: &[u8], class: &[u8]) -> Result<(), ClientError> {
        self.done(in_domain("delete_class", domain).arg("class", class))
            .await
    }

    /// The value of a setting, if it has one.
    pub async fn server_setting(&mut self, key: &str) -> Result<Option<Vec<u8>>, ClientError> {
        self.ask(
            RequestBuilder::new("server_setting").arg("key", key),
            answers::setting,
        )
        .await
    }

    /// Changes a setting.
    pub async fn set_server_setting(&mut self, key: &str, value: &[u8]) -> Result<(), ClientError> {
        let request = RequestBuilder::new("set_server_setting")
            .arg("key", key)
            .arg("value", value);
        self.done(request).await
    }

    /// Sends a request and reads the fields of its OK.
    async fn ask<T>(
        &mut self,
        request: RequestBuilder,
        read: impl FnOnce(Args<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let reply = self.request(request.finish()).await?;
        read(reply.fields().map_err(ClientError::tracker)?)
    }

    /// Sends a request of whose OK nothing but the fact matters.
    async fn done(&mut self, request: RequestBuilder) -> Result<(), ClientError> {
        self.ask(request, |_fields| Ok(())).await
    }
}

impl ClassSettings<'_> {
    fn request(&self, command: &str) -> RequestBuilder {
        in_domain(command, self.domain)
            .arg("class", self.class)
            .number("mindevcount", self.mindevcount.into())
            .opt("replpolicy", self.replpolicy)
            .opt("hashtype", self.hashtype)
    }
}

fn in_domain(command: &str, domain: &[u8]) -> RequestBuilder {
    RequestBuilder::new(command).arg("domain", domain)
}

fn of_key(command: &str, domain: &[u8], key: &[u8]) -> RequestBuilder {
    in_domain(command, domain).arg("key", key)
}
