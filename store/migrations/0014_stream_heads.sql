-- an instance of the api looks at the streams of all its users each second. one statement for each of ten thousand users is more
-- than the database does besides; this is one for many of them.

grant select on user_stream to flowai_auth;
create policy heads on user_stream for select to flowai_auth using (true);

-- the newest event number of each of these users; no row for one without events. numbers only: what happened is read as the user,
-- and on a user's behalf it tells no other's number either.
create function stream_heads(users uuid[]) returns table (user_id uuid, seq bigint)
    language sql stable security definer
    set search_path = public, pg_temp
begin atomic
    select s.user_id, s.seq from user_stream s
     where s.user_id = any (users) and (app_user() is null or s.user_id = app_user());
end;

grant create on schema public to flowai_auth;
grant flowai_auth to current_user;
alter function stream_heads(uuid[]) owner to flowai_auth;
revoke all on function stream_heads(uuid[]) from public;
grant execute on function stream_heads(uuid[]) to flowai_app;
revoke flowai_auth from current_user;
revoke create on schema public from flowai_auth;
