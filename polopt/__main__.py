from polopt.cli import main

raise SystemExit(main())
