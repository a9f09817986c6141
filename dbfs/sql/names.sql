-- Users, directories and names. Errors: 58P01 no such file or directory, 58P02 exists already (or 23505),
-- 42809 wrong kind (directory, localized, parallel), 55000 directory not empty.

-- Adds a user. False: the name is taken.
CREATE OR REPLACE FUNCTION dbfs_create_user(in_user text, in_home int8, in_block_size int4) RETURNS bool
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fs_user (user_name, home, block_size) VALUES (in_user, in_home, in_block_size) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

-- Raises 58P01 unless in_path is a directory. FOR SHARE is not known here; FOR UPDATE keeps the directory from being
-- deleted while something is made in it.
CREATE OR REPLACE FUNCTION dbfs_check_directory(in_home int8, in_user text, in_parent text, in_name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF in_name = '' THEN
        RETURN;  -- the root
    END IF;
    PERFORM kind FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name AND kind = 0 FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such directory: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
END
$$;

-- Makes a directory or an empty file (in_kind 0, 1 or 2) called in_name in directory in_parent, which is itself called
-- in_up_name in in_up_parent (both '' if in_parent is the root). in_file_id is a fresh random number.
CREATE OR REPLACE FUNCTION dbfs_create(in_home int8, in_user text, in_up_parent text, in_up_name text, in_parent text,
                                       in_name text, in_kind int4, in_file_id int8, in_block_size int4) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dbfs_check_directory(in_home, in_user, in_up_parent, in_up_name);
    INSERT INTO directory (home, user_name, parent, name, kind, file_id, block_size)
        VALUES (in_home, in_user, in_parent, in_name, in_kind, in_file_id, in_block_size)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'exists already: % in %', in_name, in_parent USING ERRCODE = '58P02';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION dbfs_stat(in_home int8, in_user text, in_parent text, in_name text)
RETURNS TABLE (kind int4, file_id int8, size int8, block_size int4, version int8, created_at timestamptz,
               modified_at timestamptz) LANGUAGE sql AS $$
    SELECT d.kind, d.file_id, d.size, d.block_size, d.version, d.created_at, d.modified_at FROM directory d
        WHERE d.home = in_home AND d.user_name = in_user AND d.parent = in_parent AND d.name = in_name
$$;

-- What is in a directory, by name.
CREATE OR REPLACE FUNCTION dbfs_list(in_home int8, in_user text, in_path text)
RETURNS TABLE (name text, kind int4, size int8, block_size int4, modified_at timestamptz) LANGUAGE sql AS $$
    SELECT d.name, d.kind, d.size, d.block_size, d.modified_at FROM directory d
        WHERE d.home = in_home AND d.user_name = in_user AND d.parent = in_path
        ORDER BY d.name
$$;

-- Renames a file or a directory with all that is in it, within the user's tree. The new directory is named as in dbfs_create.
-- 58P02 if the new name is taken (23505 from PostgreSQL if it is taken at the same moment), 22023 for a directory into itself.
CREATE OR REPLACE FUNCTION dbfs_rename(in_home int8, in_user text, in_parent text, in_name text, in_up_parent text,
                                       in_up_name text, in_new_parent text, in_new_name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    f        record;
    path     text := CASE WHEN in_parent = '/' THEN '/' || in_name ELSE in_parent || '/' || in_name END;
    new_path text := CASE WHEN in_new_parent = '/' THEN '/' || in_new_name ELSE in_new_parent || '/' || in_new_name END;
BEGIN
    SELECT kind INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such file or directory: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    IF f.kind = 0 AND starts_with(new_path, path || '/') THEN
        RAISE EXCEPTION 'cannot move % into itself', path USING ERRCODE = '22023';
    END IF;
    PERFORM dbfs_check_directory(in_home, in_user, in_up_parent, in_up_name);
    IF new_path = path THEN
        RETURN;
    END IF;
    PERFORM kind FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_new_parent AND name = in_new_name;
    IF FOUND THEN
        RAISE EXCEPTION 'exists already: % in %', in_new_name, in_new_parent USING ERRCODE = '58P02';
    END IF;
    IF f.kind = 0 THEN
        -- Whoever makes something in a directory below holds its row: wait for him first.
        PERFORM kind FROM directory
            WHERE home = in_home AND user_name = in_user AND kind = 0
              AND (parent = path OR starts_with(parent, path || '/')) FOR UPDATE;
        UPDATE directory SET parent = new_path || substring(parent, length(path) + 1)
            WHERE home = in_home AND user_name = in_user AND (parent = path OR starts_with(parent, path || '/'));
    END IF;
    UPDATE directory SET parent = in_new_parent, name = in_new_name, modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
END
$$;

-- Gives a file to another user, into a directory of his that is named as in dbfs_create. Blocks of a localized file move to
-- his home; those of a parallel file stay where they are. Directories stay with their user (42809).
CREATE OR REPLACE FUNCTION dbfs_give(in_home int8, in_user text, in_parent text, in_name text, in_to_home int8,
                                     in_to_user text, in_up_parent text, in_up_name text, in_new_parent text,
                                     in_new_name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f record;
BEGIN
    SELECT kind, file_id INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    IF f.kind = 0 THEN
        RAISE EXCEPTION '% in % is a directory', in_name, in_parent USING ERRCODE = '42809';
    END IF;
    PERFORM dbfs_check_directory(in_to_home, in_to_user, in_up_parent, in_up_name);
    PERFORM kind FROM directory
        WHERE home = in_to_home AND user_name = in_to_user AND parent = in_new_parent AND name = in_new_name;
    IF FOUND THEN
        RAISE EXCEPTION 'exists already: % in %', in_new_name, in_new_parent USING ERRCODE = '58P02';
    END IF;
    UPDATE directory SET home = in_to_home, user_name = in_to_user, parent = in_new_parent, name = in_new_name,
                         modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
    IF f.kind = 1 AND in_to_home <> in_home THEN
        UPDATE localized_file SET home = in_to_home WHERE home = in_home AND file_id = f.file_id;
    END IF;
END
$$;

-- Deletes a localized file with its blocks, or a directory that is empty. False: it is a parallel file, and nothing was done
-- (dbfs_delete_parallel).
CREATE OR REPLACE FUNCTION dbfs_delete(in_home int8, in_user text, in_parent text, in_name text) RETURNS bool
LANGUAGE plpgsql AS $$
DECLARE
    f record;
    path text;
BEGIN
    DELETE FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name AND kind = 1
        RETURNING file_id, size INTO f;
    IF FOUND THEN
        -- An empty file has no blocks.
        IF f.size > 0 THEN
            DELETE FROM localized_file WHERE home = in_home AND file_id = f.file_id;
        END IF;
        RETURN true;
    END IF;
    SELECT kind INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such file or directory: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    IF f.kind = 2 THEN
        RETURN false;
    END IF;
    path := CASE WHEN in_parent = '/' THEN '/' || in_name ELSE in_parent || '/' || in_name END;
    PERFORM name FROM directory WHERE home = in_home AND user_name = in_user AND parent = path LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'directory not empty: %', path USING ERRCODE = '55000';
    END IF;
    DELETE FROM directory WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
    RETURN true;
END
$$;
