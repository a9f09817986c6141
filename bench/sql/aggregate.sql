SELECT CAST(sum(size) AS int8) FROM directory
WHERE home = $1 AND user_name = $2 AND kind <> 0 AND size >= $3
