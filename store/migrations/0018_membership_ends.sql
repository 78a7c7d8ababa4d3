-- the end of what 0011 began: any administrator ends any token, and what admits nobody any more is forgotten.

-- a check of new rows also binds the new row of an update: of the admins only the one who made a token could end it. that
-- nobody makes one in another's name is a matter of inserts alone.
drop policy admins on join_token;
create policy admins on join_token to flowai_app
    using ((select app_is_admin())) with check ((select app_is_admin()));
create policy own_name on join_token as restrictive for insert to flowai_app
    with check (created_by = (select app_user()));

-- the certificates of a token and of a node go with it.
grant delete on join_token, node_member to flowai_coordinator;
