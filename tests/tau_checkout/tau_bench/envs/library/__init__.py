from tau_bench.envs.library.env import LibraryEnv as LibraryEnv
