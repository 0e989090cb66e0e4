"""The model: how frames become visual tokens (`encoder`, `foveated`, `multi_token`) and how they are read (`vision_language`)."""
