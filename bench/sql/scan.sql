SELECT worker_id, count(*) AS tasks FROM task WHERE p_key = $1
GROUP BY worker_id ORDER BY tasks DESC LIMIT 1
