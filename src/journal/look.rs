//! Looking at what the local tracker holds, as settling asks it: always the master database, by `file_debug`.
//!
//! `file_info` and `get_paths` may be answered by a slave that lags, or by a cache; neither proves anything.

use async_trait::async_trait;
use mogilefs_protocol::client::FileDebug;

use crate::file::{Class, Fid, FileName};
use crate::trackers::{TrackerError, Trackers};

use super::settle::{Look, LookError, Row};

/// A fid that no tracker has: asking for it works exactly as long as its database does.
const NO_FID: Fid = Fid(1 << 52);

#[async_trait]
impl Look for Trackers {
    async fn by_key(&self, file: &FileName) -> Result<Option<Row>, LookError> {
        match self.file_debug_by_key(file).await {
            Ok(found) => Ok(found.as_ref().and_then(living)),
            Err(why) if why.is_code("unreg_domain") => Ok(None),
            // A key that the tracker's database cannot hold dies in every lookup. If others
            // work, nothing can be there.
            Err(why) if why.is_code("failure") => {
                self.file_debug_by_fid(NO_FID).await.map_err(look_error)?;
                match self.file_debug_by_key(file).await {
                    Err(again) if again.is_code("failure") => Ok(None),
                    Err(again) => Err(look_error(again)),
                    Ok(found) => Ok(found.as_ref().and_then(living)),
                }
            }
            Err(why) => Err(look_error(why)),
        }
    }

    async fn by_fid(&self, fid: Fid) -> Result<Option<Row>, LookError> {
        let found = self.file_debug_by_fid(fid).await.map_err(look_error)?;
        Ok(living(&found))
    }
}

fn look_error(why: TrackerError) -> LookError {
    LookError(why.to_string())
}

/// The living file that an answer speaks of. A digest that the tracker keeps may be a client's mere claim, so it is left out.
pub fn living(found: &FileDebug) -> Option<Row> {
    let file = found.file.as_ref()?;
    Some(Row {
        file: FileName::from_bytes(&file.domain, &file.key),
        fid: Fid(file.fid),
        class: Class::from_bytes(&file.class),
        size: file.length,
    })
}
