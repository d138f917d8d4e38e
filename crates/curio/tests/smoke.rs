//! Smoke.
use curio::testing::virtual_kernel;
use std::time::Duration;
#[test]
fn smoke() {
    let mut k = virtual_kernel();
    let r = k.run(async {
        let t = curio::spawn(async { curio::sleep(Duration::from_secs(1000)).await.map(drop) });
        let e = curio::timeout_after(Duration::from_secs(1), t.join()).await.unwrap_err();
        assert!(e.is_timeout(), "{e:?}");
        assert!(t.cancel().await?);
        let e = t.join().await.unwrap_err();
        assert!(e.is_task_error());
        println!("{e}");
        Ok(5)
    });
    assert_eq!(r.unwrap(), 5);
}
