//! The S3 operations that the farm uses, over s3s-fs.

use std::path::{Path, PathBuf};

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;

use super::listing;
use super::upkeep::ObjectFiles;

/// s3s-fs keeps an upload whose checksum turned out wrong; S3 keeps nothing. This removes it, answers an upload when it is on disk, and
/// serves only what is listed here: every other operation is "not implemented". (Where a wrong upload replaced an object, that is gone
/// too: the farm writes a key once.)
#[derive(Debug)]
pub(super) struct Verified {
    files: FileSystem,
    /// Where its buckets lie.
    root: PathBuf,
}

impl Verified {
    /// `files` serves `root`.
    pub(super) fn new(files: FileSystem, root: &Path) -> Self {
        Self {
            files,
            root: root.to_owned(),
        }
    }

    async fn keep(&self, bucket: &str, key: &str) -> S3Result<()> {
        match ObjectFiles::of(&self.root, bucket, key) {
            Some(files) => files.keep().await,
            None => Ok(()),
        }
    }

    async fn forget(&self, bucket: &str, key: &str) -> S3Result<()> {
        match ObjectFiles::of(&self.root, bucket, key) {
            Some(files) => files.forget().await,
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Verified {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let delete = DeleteObjectInput::builder()
            .bucket(bucket.clone())
            .key(key.clone())
            .build()
            .map_err(s3s::S3Error::internal_error)?;
        let delete = request_like(&request, delete);
        let result = self.files.put_object(request).await;
        match &result {
            Ok(_) => self.keep(&bucket, &key).await?,
            Err(error) if *error.code() == s3s::S3ErrorCode::BadDigest => {
                self.delete_object(delete).await?;
            }
            Err(_) => {}
        }
        result
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let copied = self.files.copy_object(request).await?;
        self.keep(&bucket, &key).await?;
        Ok(copied)
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let deleted = self.files.delete_object(request).await?;
        self.forget(&bucket, &key).await?;
        Ok(deleted)
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let bucket = request.input.bucket.clone();
        let deleted = self.files.delete_objects(request).await?;
        for object in deleted.output.deleted.iter().flatten() {
            if let Some(key) = &object.key {
                self.forget(&bucket, key).await?;
            }
        }
        Ok(deleted)
    }

    /// s3s-fs walks all objects of the bucket for each list: only people with a browser ask for groups.
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        match request.input.delimiter {
            None => listing::list(&self.root, request.input).await,
            Some(_) => self.files.list_objects_v2(request).await,
        }
    }
}

/// `input` as asked by the same caller as `request`.
fn request_like<T, U>(request: &S3Request<T>, input: U) -> S3Request<U> {
    S3Request {
        input,
        method: request.method.clone(),
        uri: request.uri.clone(),
        headers: request.headers.clone(),
        extensions: Default::default(),
        credentials: request.credentials.clone(),
        region: request.region.clone(),
        service: request.service.clone(),
        trailing_headers: None,
    }
}
