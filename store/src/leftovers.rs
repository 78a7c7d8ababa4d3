//! Objects that go with their rows: written down in the removal's own transaction, so that what its owner was told is gone goes, whatever
//! fails meanwhile.

use std::time::Duration;

use flowai_actors::ids::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, commit, in_time};
use crate::number::millis;
use crate::objects::{Objects, ObjectsError};

/// Read at once by a sweep.
const PAGE: i64 = 100;

/// What no row names any more once a removal is committed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Leftovers {
    pub keys: Vec<String>,
    /// Everything that lies below them.
    pub prefixes: Vec<String>,
}

/// Leftovers that are written down.
#[derive(Debug)]
pub struct Recorded {
    ids: Vec<Uuid>,
    leftovers: Leftovers,
}

/// Why something stays for now.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

impl Leftovers {
    pub fn key(key: String) -> Self {
        Self {
            keys: vec![key],
            ..Self::default()
        }
    }

    /// Writes them down, for the user of the transaction in which their rows go.
    ///
    /// # Errors
    /// The database's; then the transaction is of no use.
    pub async fn record(self, connection: &mut PgConnection) -> Result<Recorded, DatabaseError> {
        let keys = self.keys.iter().map(|key| (key, false));
        let prefixes = self.prefixes.iter().map(|prefix| (prefix, true));
        let (names, are_prefixes): (Vec<&String>, Vec<bool>) = keys.chain(prefixes).unzip();
        let ids: Vec<Uuid> = names.iter().map(|_| Uuid::now_v7()).collect();
        sqlx::query(
            "insert into leftover (id, owner_id, name, is_prefix)
             select l.id, (select app_user()), l.name, l.is_prefix
               from unnest($1::uuid[], $2::text[], $3::boolean[]) as l (id, name, is_prefix)",
        )
        .bind(&ids)
        .bind(names)
        .bind(are_prefixes)
        .execute(connection)
        .await?;
        Ok(Recorded {
            ids,
            leftovers: self,
        })
    }

    async fn remove(&self, objects: &Objects) -> Result<(), ObjectsError> {
        for key in &self.keys {
            objects.delete(key).await?;
        }
        for prefix in &self.prefixes {
            objects.delete_prefix(prefix).await?;
        }
        Ok(())
    }
}

impl Recorded {
    /// Removes the objects, and then what was written down of them. To be called after the commit.
    ///
    /// # Errors
    /// What stays; [`sweep`] comes back to it.
    pub async fn remove(
        self,
        database: &Database,
        owner: UserId,
        objects: &Objects,
    ) -> Result<(), NotRemoved> {
        self.leftovers.remove(objects).await?;
        let mut transaction = database.begin_as(owner).await?;
        forget(&mut transaction, &self.ids).await?;
        Ok(commit(transaction).await?)
    }
}

async fn forget(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(), DatabaseError> {
    let query = sqlx::query("delete from leftover where id = any($1)");
    query.bind(ids).execute(connection).await?;
    Ok(())
}

/// Removes what was written down so long ago that nobody is at it any more, for the leader. Gives how many names those were.
///
/// # Errors
/// Of the first that stays for the next sweep; the others are removed all the same.
pub async fn sweep(
    database: &Database,
    objects: &Objects,
    older_than: Duration,
) -> Result<u64, NotRemoved> {
    let (mut swept, mut stays, mut behind) = (0, None, Uuid::nil());
    loop {
        let page = in_time(page_of(database, older_than, behind)).await?;
        let Some((last, ..)) = page.last() else {
            return stays.map_or(Ok(swept), Err);
        };
        behind = *last;
        for (id, name, is_prefix) in page {
            match remove_one(database, objects, id, name, is_prefix).await {
                Ok(()) => swept += 1,
                Err(error) => stays = stays.or(Some(error)),
            }
        }
    }
}

type Row = (Uuid, String, bool);

async fn page_of(
    database: &Database,
    older_than: Duration,
    behind: Uuid,
) -> Result<Vec<Row>, DatabaseError> {
    let query = sqlx::query_as(
        "select id, name, is_prefix from leftover
          where created_at <= now() - $1 * interval '1 millisecond' and id > $2 order by id limit $3",
    );
    let query = query.bind(millis(older_than.as_millis() as u64));
    let query = query.bind(behind).bind(PAGE);
    Ok(query.fetch_all(database.pool()).await?)
}

async fn remove_one(
    database: &Database,
    objects: &Objects,
    id: Uuid,
    name: String,
    is_prefix: bool,
) -> Result<(), NotRemoved> {
    let mut leftovers = Leftovers::default();
    match is_prefix {
        true => leftovers.prefixes.push(name),
        false => leftovers.keys.push(name),
    }
    leftovers.remove(objects).await?;
    let forgotten = async {
        let mut connection = database.pool().acquire().await?;
        forget(&mut connection, &[id]).await
    };
    Ok(in_time(forgotten).await?)
}
