-- whoever owns the database says which tier an account has: no hole in a program does.

grant flowai_auth to current_user;
grant create on schema public to flowai_auth;

grant update (tier) on account to flowai_auth;
create function auth_set_tier(wanted_email text, wanted_tier text) returns boolean
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    update account set tier = wanted_tier where email = wanted_email;
    return found;
end;
$$;
alter function auth_set_tier(text, text) owner to flowai_auth;
revoke all on function auth_set_tier(text, text) from public;
grant execute on function auth_set_tier(text, text) to current_user;

revoke create on schema public from flowai_auth;
revoke flowai_auth from current_user;
